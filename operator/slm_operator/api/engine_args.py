"""Arguments that a user may add to an engine's, and those that are refused."""

FORBIDDEN_ARGS = frozenset(
    {
        # The operator's own.
        *("-m", "--model", "--host", "--port", "--reuse-port", "--api-prefix", "-a", "--alias", "--metrics"),
        *("-c", "--ctx-size", "-np", "--parallel", "--sleep-idle-seconds", "-t", "--threads", "-tb", "--threads-batch"),
        # Keys are checked, and connections encrypted, in front of the engine.
        *("--api-key", "--api-key-file", "--ssl-key-file", "--ssl-cert-file"),
        # These fetch from the network, or send to it.
        *("-mu", "--model-url", "-dr", "--docker-repo", "-hf", "-hfr", "--hf-repo", "-hff", "--hf-file"),
        *("-hft", "--hf-token", "-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf", "-mmu", "--mmproj-url", "--rpc"),
        # These open a file that is no verified blob of the store, or write one.
        *("-mm", "--mmproj", "-md", "--model-draft", "--spec-draft-model", "--lora", "--lora-scaled"),
        *("--control-vector", "--control-vector-scaled", "--grammar-file", "-jf", "--json-schema-file"),
        *("--chat-template-file", "-lcs", "--lookup-cache-static", "-lcd", "--lookup-cache-dynamic"),
        *("--ui-config-file", "--webui-config-file", "--video-ffmpeg-dir", "--log-file", "--log-prompts-dir"),
        # These give clients files, tools, other models, or the right to change the engine.
        *("--path", "--media-path", "--slot-save-path", "--models-dir", "--models-preset", "--models-max"),
        *("--models-autoload", "--tools", "--tools-runtime", "-ag", "--agent", "--mcp-servers-config"),
        *("--mcp-servers-json", "--ui-mcp-proxy", "--webui-mcp-proxy", "--props"),
        # These print something and end.
        *("-h", "--help", "--usage", "--version", "-cl", "--cache-list", "--completion-bash", "--list-devices"),
    }
)
"""llama-server arguments a user may not pass. tests/pipelines/test_engine_arguments.py holds the list against the
engine's own help; presets, whose names end in ``-default`` or ``-spec``, fetch models and are refused by that."""
PRESET_ENDINGS = ("-default", "-spec")
VLLM_ARGS = frozenset(
    {
        # Weights and cache.
        *("--dtype", "--quantization", "--kv-cache-dtype", "--block-size", "--seed", "--max-logprobs"),
        *("--gpu-memory-utilization", "--kv-cache-memory-bytes", "--num-gpu-blocks-override", "--cpu-offload-gb"),
        *("--enable-prefix-caching", "--no-enable-prefix-caching", "--disable-sliding-window"),
        # Scheduling and kernels.
        *("--max-num-batched-tokens", "--enable-chunked-prefill", "--no-enable-chunked-prefill"),
        *("--async-scheduling", "--no-async-scheduling", "--scheduling-policy", "--stream-interval"),
        *("--enforce-eager", "--no-enforce-eager", "--disable-custom-all-reduce", "--enable-expert-parallel"),
        # Answers.
        *("--tool-call-parser", "--enable-auto-tool-choice", "--reasoning-parser"),
        *("--limit-mm-per-prompt", "--chat-template-content-format"),
        *("--enable-prompt-tokens-details", "--enable-force-include-usage"),
    }
)
"""vLLM's arguments that a user may pass: it has hundreds, of which many load code, open files or reach the network, and
more with each version, so these are the ones that are allowed and not those that are not."""


def check_argument(argument: str, runtime: str) -> None:
    """Raise ValueError for an argument that is refused; ``runtime`` is spec.runtime."""
    name = argument.split("=", 1)[0]
    if name.startswith("--") and "_" in name:
        raise ValueError(f"spec.extraArgs must not hold {argument}: write {name.replace('_', '-')}")
    if runtime == "vllm" and name.startswith("-") and name not in VLLM_ARGS and not name[1:2].isdigit():
        raise ValueError(f"spec.extraArgs must not hold {argument}: it is none of vLLM's that are known as safe")
    if name in FORBIDDEN_ARGS or (name.startswith("-") and name.endswith(PRESET_ENDINGS)):
        raise ValueError(f"spec.extraArgs must not hold {argument}: the operator sets it, or it is unsafe")
