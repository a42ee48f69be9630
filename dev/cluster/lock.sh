#!/bin/sh
# Write go.mod and go.sum for each Kubernetes version that dev/cluster/versions.py names: k8s.io/kubernetes, with its
# staging modules replaced by their published versions. Run after changing a version, and commit what it writes.
set -eu
cd "$(dirname "$0")/../.."
for pair in $("${PYTHON:-python3}" -c 'from dev.cluster import build, versions
for version in versions.KUBERNETES.values(): print(f"{version}={build.module_file(version)}")'); do
    version=${pair%%=*} file=${pair#*=}
    (
        cd dev/cluster/kubernetes
        printf 'module slm.dev/cluster/kubernetes\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes v%s\n' "$version" >"$file"
        module=$(go mod download -modfile="$file" -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
        {
            printf '\nreplace (\n'
            awk '/=> .\/staging/ {print $1}' "$module" | while read -r name; do
                printf '\t%s => %s v0.%s\n' "$name" "$name" "${version#1.}"
            done
            printf ')\n'
        } >>"$file"
        GOFLAGS=-mod=mod go mod tidy -modfile="$file"
    )
done
