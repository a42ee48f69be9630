// An engine that costs next to nothing, and a client of many streams: what `make bench BENCH=gateway` measures with.
//
//	gatewaystub engine -port 9000                   answers; streams as many tokens at such a pace as the body says
//	gatewaystub streams -url URL -streams 100 ...   opens streams, counts tokens, prints JSON
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const answer = `{"id":"a","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":` +
	`{"role":"assistant","content":"Hello."}}],"usage":{"prompt_tokens":5,"completion_tokens":2}}`
const event = `data: {"id":"a","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,` +
	`"delta":{"content":"token %d "},"finish_reason":null}]}` + "\n\n"
const done = "data: [DONE]\n\n"

// ask is what the engine understands of a request: seed is the pause between tokens in microseconds.
type ask struct {
	Stream    bool `json:"stream"`
	MaxTokens int  `json:"max_tokens"`
	Seed      int  `json:"seed"`
}

func chat(response http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	if !bytes.Contains(body, []byte(`"stream"`)) {
		response.Header().Set("Content-Type", "application/json")
		io.WriteString(response, answer)
		return
	}
	var wanted ask
	json.Unmarshal(body, &wanted)
	response.Header().Set("Content-Type", "text/event-stream")
	flusher := response.(http.Flusher)
	began := time.Now()
	for number := 0; number < wanted.MaxTokens; number++ {
		// By the clock from the start, as an engine's steps come, so that late wake-ups do not add up.
		due := began.Add(time.Duration(number*wanted.Seed) * time.Microsecond)
		select {
		case <-request.Context().Done():
			return
		case <-time.After(time.Until(due)):
		}
		// Numbered: LiteLLM takes a hundred like tokens for an engine that has lost its way.
		fmt.Fprintf(response, event, number)
		flusher.Flush()
	}
	io.WriteString(response, done)
}

func engine(arguments []string) {
	flags := flag.NewFlagSet("engine", flag.ExitOnError)
	port := flags.Int("port", 0, "port on loopback")
	flags.Parse(arguments)
	http.HandleFunc("/v1/chat/completions", chat)
	fmt.Fprintln(os.Stderr, http.ListenAndServe(fmt.Sprintf("127.0.0.1:%d", *port), nil))
	os.Exit(1)
}

func streams(arguments []string) {
	flags := flag.NewFlagSet("streams", flag.ExitOnError)
	url := flags.String("url", "", "address of chat completions")
	key := flags.String("key", "none", "API key")
	model := flags.String("model", "default/qwen", "model")
	number := flags.Int("streams", 100, "streams at a time")
	tokens := flags.Int("tokens", 200, "tokens per stream")
	pause := flags.Int("pause", 20000, "microseconds between tokens")
	hold := flags.Duration("hold", 0, "end after so long, whether streams have ended or not; prints a line once all began")
	flags.Parse(arguments)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: *number}}
	body := fmt.Sprintf(`{"model":%q,"stream":true,"max_tokens":%d,"seed":%d,"messages":[{"role":"user","content":"hi"}]}`,
		*model, *tokens, *pause)
	var seen, complete, failed, started atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for index := 0; index < *number; index++ {
		all.Add(1)
		go func() {
			defer all.Done()
			request, _ := http.NewRequest("POST", *url, strings.NewReader(body))
			request.Header.Set("Authorization", "Bearer "+*key)
			request.Header.Set("Content-Type", "application/json")
			response, err := client.Do(request)
			if err != nil || response.StatusCode != 200 {
				failed.Add(1)
				return
			}
			defer response.Body.Close()
			lines := bufio.NewScanner(response.Body)
			first := true
			for lines.Scan() {
				if strings.Contains(lines.Text(), `"content":"token`) {
					seen.Add(1)
					if first {
						started.Add(1)
						first = false
					}
				} else if lines.Text() == "data: [DONE]" {
					complete.Add(1)
				}
			}
		}()
		if *hold > 0 {
			time.Sleep(500 * time.Microsecond)
		}
	}
	if *hold > 0 {
		end := time.Now().Add(*hold)
		for started.Load()+failed.Load() < int64(*number) && time.Now().Before(end) {
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Printf("{\"started\": %d, \"failed\": %d}\n", started.Load(), failed.Load())
		time.Sleep(time.Until(end))
		return
	}
	all.Wait()
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"tokens": seen.Load(), "complete": complete.Load(), "failed": failed.Load(),
		"seconds": time.Since(began).Seconds(),
	})
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "engine" {
		engine(os.Args[2:])
	} else if len(os.Args) > 1 && os.Args[1] == "streams" {
		streams(os.Args[2:])
	} else {
		fmt.Fprintln(os.Stderr, "usage: gatewaystub engine|streams ...")
		os.Exit(2)
	}
}
