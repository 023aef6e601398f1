#!/usr/bin/env bash
# Builds functions into static binaries and container images, without a registry.
# Progress goes to stderr; stdout names what was built: image tags, or the binaries' directory.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
readonly here root

usage() {
    cat <<'USAGE'
usage: build.sh [--engine docker|process] [--profile release|dev] [--function NAME]...
       build.sh --binary PATH --tag NAME

  --engine docker    build images muster/NAME:latest (the default)
  --engine process   build the binaries alone and print their directory
  --profile          cargo profile, release by default
  --function NAME    a workspace package to build; default: alpha, beta and faulty
  --binary PATH      make an image of your own static binary instead
  --tag NAME         that image's name, such as example/greet:latest
USAGE
}

say() { echo "build.sh: $*" >&2; }
fail() { say "$*"; exit 1; }
bad_usage() { say "$*"; usage >&2; exit 2; }

# Builds the packages statically and prints their directory. A target of their own keeps the flags
# from invalidating ordinary builds.
build_binaries() {
    local profile=$1 target packages=() name
    shift
    command -v cargo >/dev/null || fail "cargo not found: install Rust from https://rustup.rs"
    target=$(rustc -vV | sed -n 's/^host: //p')
    [[ $target == *-linux-* ]] || fail "functions are built for Linux; this host is $target"
    for name in "$@"; do packages+=(--package "$name"); done
    say "building $* ($profile, static, $target)"
    # `CARGO_TARGET_DIR` is honoured by cargo, so cargo is asked where things went.
    (cd "$root" && RUSTFLAGS='-C target-feature=+crt-static' cargo build --profile "$profile" \
        --target "$target" "${packages[@]}" >&2) || fail "the build failed"
    local base=${CARGO_TARGET_DIR:-$root/target} folder=$profile
    [[ $base == /* ]] || base=$root/$base
    [[ $profile == dev ]] && folder=debug
    echo "$base/$target/$folder"
}

# An image without a C library cannot start a binary that needs a loader: "no such file or directory"
# is all that Docker would say, much later.
check_static() {
    [[ -f $1 && -x $1 ]] || fail "$1 is not an executable file"
    command -v readelf >/dev/null || return 0
    readelf -h "$1" >/dev/null 2>&1 || fail "$1 is not an ELF binary"
    if readelf -l "$1" 2>/dev/null | grep -q INTERP; then
        fail "$1 is dynamically linked; build it with RUSTFLAGS='-C target-feature=+crt-static' and --target"
    fi
}

check_docker() {
    command -v docker >/dev/null || fail "docker not found; --engine process needs none"
    timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1 \
        || fail "no Docker Engine answers; is it running, and may $(id -un) use it?"
}

# Makes one image from one binary, in a context that holds nothing else.
build_image() (
    binary=$1 tag=$2
    check_static "$binary"
    context=$(mktemp -d)
    trap 'rm -rf "$context" "$context.log"' EXIT
    cp "$binary" "$context/function"
    cp "$here/Dockerfile" "$context/Dockerfile"
    chmod 0755 "$context/function"
    # Debug information is of no use in an image without a debugger.
    if command -v strip >/dev/null; then strip "$context/function" || say "left unstripped: $tag"; fi
    # Engines without BuildKit's client plugin still have the classic builder.
    if docker buildx version >/dev/null 2>&1; then
        builder=(docker buildx build --load)
    else
        export DOCKER_BUILDKIT=0
        builder=(docker build)
    fi
    if ! "${builder[@]}" --quiet --tag "$tag" "$context" >"$context.log" 2>&1; then
        cat "$context.log" >&2
        fail "cannot build the image $tag"
    fi
    echo "$tag"
)

engine=docker profile=release binary='' tag='' functions=()
while (($#)); do
    case $1 in
        --engine | --profile | --function | --binary | --tag)
            (($# > 1)) || bad_usage "$1 needs a value"
            case $1 in
                --engine) engine=$2 ;;
                --profile) profile=$2 ;;
                --function) functions+=("$2") ;;
                --binary) binary=$2 ;;
                --tag) tag=$2 ;;
            esac
            shift 2
            ;;
        -h | --help) usage; exit 0 ;;
        *) bad_usage "unknown argument: $1" ;;
    esac
done
[[ $engine == docker || $engine == process ]] || bad_usage "--engine is docker or process, not $engine"
[[ -z $binary && -z $tag || -n $binary && -n $tag ]] || bad_usage "--binary and --tag go together"

if [[ -n $binary ]]; then
    [[ $engine == docker ]] || bad_usage "--binary makes an image; a process needs none"
    check_docker
    build_image "$binary" "$tag"
    exit
fi

((${#functions[@]})) || functions=(alpha beta faulty)
if [[ $engine == process ]]; then
    build_binaries "$profile" "${functions[@]}"
    exit
fi
check_docker
directory=$(build_binaries "$profile" "${functions[@]}")
for name in "${functions[@]}"; do
    build_image "$directory/$name" "muster/$name:latest"
done
