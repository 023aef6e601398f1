#!/usr/bin/env bash
# A Muster cluster on this machine, to try, to develop against and to break: see deploy/README.md.
set -euo pipefail
caller_umask=$(umask)
readonly caller_umask
umask 077 # keys and state are their owner's alone

usage() {
    cat <<'USAGE'
usage: local-cluster.sh COMMAND

  up [--nodes N] [--engine docker|process]   build, start and wait until ready; starts dead nodes again
  down          stop every node and remove what they ran; state stays on disk
  status        each node's state; status 0 if all are ready, else 1
  kill N        end node N with SIGKILL
  restart N     stop node N if it runs, then start it
  pause N       stop node N from running with SIGSTOP
  resume N      let it run again with SIGCONT
  logs N [-f]   node N's log; -f follows it
  wipe          down, then remove all state

environment:
  MUSTER_LOCAL_DIR        where state is kept             (.local-cluster in the repository)
  MUSTER_LOCAL_PORT_BASE  node N listens at this + N      (8080; peers at 1000 more)
  MUSTER_BIN_DIR          use the binaries found here     (cargo build --release)
USAGE
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
local_dir=${MUSTER_LOCAL_DIR:-$root/.local-cluster}
[[ $local_dir == /* ]] || local_dir=$PWD/$local_dir
readonly root local_dir
readonly settings=$local_dir/settings # its presence also marks the directory as ours to wipe
readonly nodes_max=9                  # ports 8081 to 8089
readonly ready_secs=60 stop_secs=30

say() { echo "local-cluster: $*" >&2; }
fail() { say "$*"; exit 1; }
bad_usage() { say "$*"; usage >&2; exit 2; }

# ---- settings ----------------------------------------------------------------------------------

nodes='' engine='' port_base='' bin_dir='' function_dir=''

load_settings() {
    [[ -f $settings ]] || return 0
    local name value
    while IFS='=' read -r name value; do
        case $name in
            nodes) nodes=$value ;;
            engine) engine=$value ;;
            port_base) port_base=$value ;;
            bin_dir) bin_dir=$value ;;
            function_dir) function_dir=$value ;;
        esac
    done <"$settings"
}

save_settings() {
    printf '%s=%s\n' nodes "$nodes" engine "$engine" port_base "$port_base" \
        bin_dir "$bin_dir" function_dir "$function_dir" | replace "$settings"
}

# Writes stdin to a file that is never seen half-written.
replace() {
    cat >"$1.new"
    mv -f "$1.new" "$1"
}

# A directory that this script has not made is never taken over, least of all wiped.
check_local_dir() {
    [[ -d $local_dir ]] || return 0
    [[ -w $local_dir && -x $local_dir ]] \
        || fail "$local_dir is not writable by $(id -un); was the cluster started by another user?"
    [[ -f $settings || -z $(ls -A "$local_dir") ]] \
        || fail "$local_dir holds files that are not a local cluster's; choose another MUSTER_LOCAL_DIR"
}

# One run at a time, on the directory itself: there is no lock file to leave behind.
take_lock() {
    local waited=''
    while :; do
        exec 9<"$local_dir"
        if ! flock --nonblock 9; then
            [[ -n $waited ]] || say "waiting for another run of this script"
            waited=yes
            flock --timeout 600 9 || fail "another run of this script still works on $local_dir"
        fi
        # Wiped meanwhile: what is locked is no longer the directory.
        [[ /proc/self/fd/9 -ef $local_dir ]] && return
        [[ -d $local_dir ]] || fail "the cluster was wiped meanwhile"
    done
}

# ---- nodes and their processes -----------------------------------------------------------------

http_address() { echo "127.0.0.1:$((port_base + $1))"; }
peer_address() { echo "127.0.0.1:$((port_base + 1000 + $1))"; }

# The state letter of a process, such as S or T; fails if there is none, or only its remains.
process_state() {
    local line
    # Not `$(<file)`, whose failure ends the whole script.
    { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
    line=${line##*) } # the name before it may hold anything
    [[ $line != [ZX]* ]] && echo "${line%% *}"
}

# Node N's pid, if it runs. The number alone proves nothing once the node has died and the system has
# counted around, so the command line must name the node's configuration.
node_pid() {
    local pid word words=()
    { read -r pid <"$local_dir/node$1.pid"; } 2>/dev/null || return 1
    [[ $pid =~ ^[0-9]+$ ]] && process_state "$pid" >/dev/null || return 1
    { mapfile -d '' -t words <"/proc/$pid/cmdline"; } 2>/dev/null || return 1
    for word in "${words[@]}"; do
        [[ $word == "$local_dir/node$1.toml" ]] && { echo "$pid"; return; }
    done
    return 1
}

# `ready`, `live`, `paused`, `starting` (no answer yet) or `dead`.
node_condition() {
    if ! node_pid "$1" >/dev/null; then echo dead
    elif node_is_paused "$1"; then echo paused
    elif answers "$1" /readyz; then echo ready
    elif answers "$1" /livez; then echo live
    else echo starting
    fi
}

node_is_paused() { [[ $(process_state "$(<"$local_dir/node$1.pid")") == [Tt] ]]; }

answers() {
    curl --silent --fail --noproxy '*' --max-time 2 --output /dev/null "http://$(http_address "$1")$2"
}

write_config() {
    local n=$1 i
    {
        cat <<CONFIG
# Written by local-cluster.sh at each start.
node_id = $n
data_dir = $(toml_text "$local_dir/node$n")
[http]
listen = "$(http_address "$n")"
[peer]
listen = "$(peer_address "$n")"
secret_file = $(toml_text "$local_dir/peer.secret")
[engine]
kind = "$engine"
CONFIG
        if ((n == 1)); then
            echo "[bootstrap]"
            echo "members = ["
            for ((i = 1; i <= nodes; i++)); do
                echo "  { id = $i, http = \"$(http_address "$i")\", peer = \"$(peer_address "$i")\" },"
            done
            echo "]"
            echo "root_key_file = $(toml_text "$local_dir/root.key")"
        fi
    } | replace "$local_dir/node$n.toml"
}

toml_text() {
    local text=${1//\\/\\\\}
    echo "\"${text//\"/\\\"}\""
}

port_is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

start_node() {
    local n=$1 port pid
    for port in $((port_base + n)) $((port_base + 1000 + n)); do
        ! port_is_taken "$port" \
            || fail "port $port, which node $n needs, is taken; choose another MUSTER_LOCAL_PORT_BASE"
    done
    mkdir -p "$local_dir/node$n"
    write_config "$n"
    # A session of its own lets the node outlive this shell and its terminal, and marks whatever the
    # node starts. Neither our lock nor a pipe that our caller reads may go with it.
    (
        cd "$local_dir"
        for fd in /proc/self/fd/*; do
            fd=${fd##*/}
            ((fd <= 2 || fd == 255)) || eval "exec $fd>&-"
        done
        exec setsid "$bin_dir/muster-node" --config "$local_dir/node$n.toml" \
            </dev/null >>"$local_dir/node$n.log" 2>&1
    ) &
    pid=$!
    disown "$pid" 2>/dev/null || true
    echo "$pid" >>"$local_dir/sessions"
    echo "$pid" | replace "$local_dir/node$n.pid"
}

# Asks nodes to stop, all at once, and sees to it that they do.
stop_nodes() {
    local n pid deadline
    for n in "$@"; do
        pid=$(node_pid "$n") || continue
        # A paused node hears the first signal only after the second. Either may find it gone.
        kill -TERM "$pid" 2>/dev/null || continue
        kill -CONT "$pid" 2>/dev/null || continue
    done
    deadline=$((SECONDS + stop_secs))
    for n in "$@"; do
        while pid=$(node_pid "$n"); do
            if ((SECONDS >= deadline)); then
                say "node $n does not stop; killing it"
                kill_node "$n"
                break
            fi
            sleep 0.05
        done
    done
}

kill_node() {
    local pid deadline=$((SECONDS + stop_secs))
    pid=$(node_pid "$1") || return 0
    kill -KILL "$pid" || true
    while node_pid "$1" >/dev/null; do
        ((SECONDS < deadline)) || fail "node $1 (pid $pid) survives SIGKILL; it hangs in the kernel"
        sleep 0.02
    done
}

# Waits until node N answers 200 at a path, or says why it never will.
await_node() {
    local n=$1 path=$2 deadline=$3
    until answers "$n" "$path"; do
        if ! process_state "$(<"$local_dir/node$n.pid")" >/dev/null; then
            tail -n 20 "$local_dir/node$n.log" >&2
            fail "node $n ended; above is the end of $local_dir/node$n.log"
        fi
        if ((SECONDS >= deadline)); then
            tail -n 20 "$local_dir/node$n.log" >&2
            fail "node $n does not answer $path within $ready_secs s; above is the end of its log"
        fi
        sleep 0.1
    done
}

# ---- what nodes leave behind -------------------------------------------------------------------

# Ends what a killed node's session still runs. A session's number stays taken while it has members,
# so it cannot meanwhile belong to someone else, unless a live process leads it.
end_sessions() {
    [[ -f $local_dir/sessions ]] || return 0
    local session stat line fields
    while read -r session; do
        [[ $session =~ ^[0-9]+$ ]] || continue
        process_state "$session" >/dev/null && continue
        for stat in /proc/[0-9]*/stat; do
            { read -r line <"$stat"; } 2>/dev/null || continue
            read -r -a fields <<<"${line##*) }" # state, parent, group, session
            [[ ${fields[3]-} == "$session" && ${fields[0]} != [ZX] ]] || continue
            stat=${stat#/proc/}
            say "ending process ${stat%/stat}, which a node left behind"
            kill -KILL "${stat%/stat}" 2>/dev/null || true
        done
    done < <(sort -u "$local_dir/sessions")
    rm -f "$local_dir/sessions"
}

# Removes every container and network with this cluster's label.
remove_containers() {
    [[ $engine == docker && -f $local_dir/cluster_id ]] || return 0
    local label round ids
    label=label=muster.cluster=$(<"$local_dir/cluster_id")
    docker_answers || fail "no Docker Engine answers, so containers with $label may be left; run down again"
    # The engine may still be finishing a launch that a killed node asked for.
    for ((round = 0; round < 20; round++)); do
        mapfile -t ids < <(docker ps --all --quiet --filter "$label")
        ((${#ids[@]})) || break
        docker rm --force --volumes "${ids[@]}" >/dev/null 2>&1 || sleep 0.2
    done
    mapfile -t ids < <(docker network ls --quiet --filter "$label")
    ((${#ids[@]} == 0)) || docker network rm "${ids[@]}" >/dev/null || fail "cannot remove the cluster's network"
    remove_firewall
    [[ -z $(docker ps --all --quiet --filter "$label") ]] || fail "cannot remove the containers with $label"
}

# Removes the images that the nodes have loaded from packages, which have the cluster's id in their names.
remove_package_images() {
    local images
    [[ ${engine:-} == docker && -f $local_dir/cluster_id ]] || return 0
    mapfile -t images < <(docker image ls --format '{{.Repository}}:{{.Tag}}' \
        | grep "^muster-package/$(<"$local_dir/cluster_id")-" || true)
    ((${#images[@]} == 0)) || docker image rm "${images[@]}" >/dev/null || say "some images of packages are left"
}

# Removes the rules that kept the containers from the nodes. They name the network's device, which has the
# cluster's id in its name, so they are of no other use.
remove_firewall() {
    local id device chain parent
    command -v iptables >/dev/null || return 0
    id=$(<"$local_dir/cluster_id")
    device=mu${id: -13}
    for parent in DOCKER-USER INPUT; do
        chain=$device-out
        [[ $parent == INPUT ]] && chain=$device-in
        while iptables -w 5 -D "$parent" -i "$device" -j "$chain" 2>/dev/null; do :; done
        iptables -w 5 -F "$chain" 2>/dev/null || true
        iptables -w 5 -X "$chain" 2>/dev/null || true
    done
}

docker_answers() {
    command -v docker >/dev/null && timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# ---- talking to the cluster --------------------------------------------------------------------

# Asks node N with a key and prints the status, or 000 without an answer. The key goes by stdin: the
# arguments of a process are everyone's to read.
status_of() {
    local n=$1 path=$2 key=$3
    printf 'header = "Authorization: Bearer %s"\n' "$key" \
        | curl --silent --noproxy '*' --max-time 5 --config - --output /dev/null --write-out '%{http_code}' \
            "http://$(http_address "$n")$path" || true
}

# Prints node N's answer, or fails.
get() {
    local n=$1 path=$2 key=$3
    printf 'header = "Authorization: Bearer %s"\n' "$key" \
        | curl --silent --fail --noproxy '*' --max-time 5 --config - "http://$(http_address "$n")$path"
}

# The first text value of a field, from JSON on stdin; fails if there is none.
json_text() {
    local text
    text=$(cat)
    [[ $text =~ \"$1\"[[:space:]]*:[[:space:]]*\"([^\"]+)\" ]] && echo "${BASH_REMATCH[1]}"
}

muster() {
    MUSTER_URL=$(urls) MUSTER_KEY=$(<"$local_dir/root.key") NO_COLOR=1 "$bin_dir/muster" "$@" 9<&-
}

# The same, for changes: an election may just be under way. Quiet but for what is asked for on stdout.
change() {
    local round said
    for round in 1 2 3; do
        { said=$(muster "$@" 2>&1 >&3 3>&-); } 3>&1 && return
        ((round == 3)) || sleep 1
    done
    fail "muster $*: $said"
}

urls() {
    local n list=''
    for ((n = 1; n <= nodes; n++)); do list+=,http://$(http_address "$n"); done
    echo "${list#,}"
}

write_env() {
    printf 'export MUSTER_URL=%s MUSTER_KEY=%s\n' "$(urls)" "$(<"$local_dir/root.key")" | replace "$local_dir/env"
}

# The cluster's id labels its containers; it is kept for the day no node is left to ask.
learn_cluster_id() {
    local n id
    for ((n = 1; n <= nodes; n++)); do
        if id=$(get "$n" '/v1/cluster?consistency=local' "$(<"$local_dir/root.key")" | json_text cluster_id); then
            echo "$id" | replace "$local_dir/cluster_id"
            return
        fi
    done
    return 1
}

# ---- up ----------------------------------------------------------------------------------------

parse_up() {
    local want_nodes='' want_engine=''
    while (($#)); do
        case $1 in
            --nodes | --engine) (($# > 1)) || bad_usage "$1 needs a value" ;;&
            --nodes) want_nodes=$2; shift 2 ;;
            --engine) want_engine=$2; shift 2 ;;
            *) bad_usage "unknown argument: $1" ;;
        esac
    done
    [[ -z $want_nodes || $want_nodes =~ ^[1-$nodes_max]$ ]] || bad_usage "--nodes is 1 to $nodes_max, not $want_nodes"
    [[ $want_engine =~ ^(|docker|process)$ ]] || bad_usage "--engine is docker or process, not $want_engine"

    local want_base=${MUSTER_LOCAL_PORT_BASE:-}
    [[ -z $want_base || $want_base =~ ^[1-9][0-9]{0,4}$ && $want_base -le $((65535 - 1000 - nodes_max)) ]] \
        || bad_usage "MUSTER_LOCAL_PORT_BASE is not a usable port: $want_base"
    # Members know each other by number and address, so these stay as they were chosen first.
    [[ -z $nodes || -z $want_nodes || $nodes == "$want_nodes" ]] \
        || fail "this cluster has $nodes nodes; 'wipe' it first for one of $want_nodes"
    [[ -z $port_base || -z $want_base || $port_base == "$want_base" ]] \
        || fail "this cluster's ports are based at $port_base; 'wipe' it first to base them at $want_base"
    nodes=${nodes:-${want_nodes:-3}}
    port_base=${port_base:-${want_base:-8080}}
    choose_engine "$want_engine"
}

choose_engine() {
    local n want=${1:-$engine}
    if [[ -n $engine && $want != "$engine" ]]; then
        for ((n = 1; n <= nodes; n++)); do
            ! node_pid "$n" >/dev/null || fail "the nodes run with --engine $engine; use 'down' first"
        done
    fi
    if [[ -z $want ]]; then
        if docker_answers; then want=docker; else want=process; fi
        say "engine: $want"
    elif [[ $want == docker ]]; then
        docker_answers || fail "no Docker Engine answers; is it running, and may $(id -un) use it? --engine process needs none"
    fi
    engine=$want
}

build() {
    local name
    if [[ -n ${MUSTER_BIN_DIR:-} ]]; then
        bin_dir=$(cd "$MUSTER_BIN_DIR" 2>/dev/null && pwd) || fail "MUSTER_BIN_DIR=$MUSTER_BIN_DIR is not a directory"
        function_dir=$bin_dir
        if [[ $engine == docker ]] && ! docker image inspect muster/alpha:latest muster/beta:latest >/dev/null 2>&1; then
            build_functions docker
        fi
    else
        command -v cargo >/dev/null \
            || fail "cargo not found: install Rust from https://rustup.rs, or set MUSTER_BIN_DIR to built binaries"
        say "building muster-node and muster (release)"
        (umask "$caller_umask" && cd "$root" && cargo build --release -p muster-node -p muster-client 9<&- >&2) \
            || fail "the build failed"
        bin_dir=${CARGO_TARGET_DIR:-$root/target}
        [[ $bin_dir == /* ]] || bin_dir=$root/$bin_dir
        bin_dir+=/release
        if [[ $engine == docker ]]; then
            build_functions docker
        else
            function_dir=$(build_functions process)
        fi
    fi
    for name in muster-node muster; do
        [[ -x $bin_dir/$name ]] || fail "$bin_dir has no program $name"
    done
    [[ $engine == docker ]] && return
    for name in alpha beta; do
        [[ -x $function_dir/$name ]] || fail "$function_dir has no program $name"
    done
}

build_functions() {
    local built
    built=$(umask "$caller_umask" && "$root/runtime/images/build.sh" --engine "$1" --function alpha --function beta 9<&-) \
        || fail "the functions' build failed"
    [[ $1 == docker ]] || echo "$built"
}

deploy_function() {
    local name=$1 file=$root/deploy/functions/$1.$engine.toml line
    if [[ $engine == process ]]; then
        line="command = [$(toml_text "$function_dir/$name")]"
        while IFS= read -r word; do
            if [[ $word == 'command = '* ]]; then echo "$line"; else echo "$word"; fi
        done <"$file" | replace "$local_dir/$name.toml"
        file=$local_dir/$name.toml
    fi
    change deploy -f "$file" >/dev/null
}

# An account with a key in NAME.key that may invoke the functions named.
ensure_account() {
    local name=$1 function key
    shift
    muster accounts show "$name" >/dev/null 2>&1 || change accounts create "$name" >/dev/null
    for function in "$@"; do change grant "$name" "$function" >/dev/null; done
    if [[ -f $local_dir/$name.key ]] && key_works 1 "$(<"$local_dir/$name.key")" "$((SECONDS + 2))"; then
        return
    fi
    key=$(change keys create "$name" -o json | json_text key) || fail "cannot create a key for $name"
    echo "$key" | replace "$local_dir/$name.key"
}

# Whether node N takes the key. It may have to catch up first, and a node that cannot tell is asked
# again until the deadline.
key_works() {
    local n=$1 key=$2 deadline=$3 status
    while :; do
        status=$(status_of "$n" '/v1/functions?consistency=local' "$key")
        [[ $status == [234]?? && $status != 401 ]] && return
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

up() {
    local n pid deadline name started=()
    parse_up "$@"
    build
    save_settings
    [[ -f $local_dir/peer.secret ]] \
        || head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' | replace "$local_dir/peer.secret"

    for ((n = 1; n <= nodes; n++)); do
        if pid=$(node_pid "$n"); then
            kill -CONT "$pid"
        else
            start_node "$n"
            started+=("$n")
        fi
    done
    ((${#started[@]} == 0)) || say "started node ${started[*]}"
    deadline=$((SECONDS + ready_secs))
    say "waiting until all $nodes are ready"
    for ((n = 1; n <= nodes; n++)); do await_node "$n" /readyz "$deadline"; done
    [[ -s $local_dir/root.key ]] || fail "the nodes are ready, but $local_dir/root.key is missing; 'wipe' starts afresh"
    write_env
    learn_cluster_id || fail "no node tells the cluster's id; see '$0 logs 1'"

    say "deploying alpha and beta, creating alice, bob and carol"
    deploy_function alpha
    deploy_function beta
    ensure_account alice alpha
    ensure_account bob beta
    ensure_account carol alpha beta
    # The cluster is ready when every node, not only the one that was asked, knows all this.
    for ((n = 1; n <= nodes; n++)); do
        for name in alice bob carol; do
            key_works "$n" "$(<"$local_dir/$name.key")" "$deadline" || fail "node $n refuses $name's key"
        done
        for name in alpha beta; do
            until get "$n" "/v1/functions/$name?consistency=local" "$(<"$local_dir/root.key")" >/dev/null 2>&1; do
                ((SECONDS < deadline)) || fail "node $n does not know the function $name"
                sleep 0.1
            done
        done
    done
    print_what_to_try
}

print_what_to_try() {
    local shown=$local_dir script=$0 cli=$bin_dir/muster
    # Short where the caller stands in the repository.
    shown=${shown#"$PWD/"} cli=${cli#"$PWD/"}
    cat <<TRY

Ready: $nodes node(s), engine $engine: $(urls)

Call a function, through any node:

    curl http://$(http_address "$((nodes > 1 ? 2 : 1))")/function/alpha -H "Authorization: Bearer \$(cat $shown/alice.key)" \\
         -d '{"args":{"prompt":"what now?"}}'

alice may invoke alpha, bob may invoke beta, carol may invoke both:

    curl -i http://$(http_address 1)/function/beta -H "Authorization: Bearer \$(cat $shown/alice.key)" -d '{}'     # 403

Look around as the administrator:

    source $shown/env
    $cli cluster status
    $cli instances
    $cli usage

Break it, and see it carry on:

    $script kill 1 && $script status && $script up

Stop it with '$script down', forget it with '$script wipe'.
TRY
}

# ---- the other commands ------------------------------------------------------------------------

down() {
    local n running=()
    for ((n = 1; n <= ${nodes:-0}; n++)); do
        ! node_pid "$n" >/dev/null || running+=("$n")
    done
    # A start that was interrupted may have missed it.
    if [[ ! -f $local_dir/cluster_id && -s $local_dir/root.key && ${#running[@]} -gt 0 ]]; then
        learn_cluster_id || true
    fi
    if ((${#running[@]})); then
        say "stopping node ${running[*]}"
        stop_nodes "${running[@]}"
    fi
    end_sessions
    remove_containers
    rm -f "$local_dir"/node*.pid
    say "down; state is kept in $local_dir"
}

wipe() {
    down
    remove_package_images
    rm -rf "$local_dir"
    say "wiped"
}

status() {
    local n pid condition all=0
    printf '%-5s %-8s %-9s %s\n' NODE PID STATE URL
    for ((n = 1; n <= nodes; n++)); do
        condition=$(node_condition "$n")
        pid=$(node_pid "$n") || pid=-
        printf '%-5s %-8s %-9s %s\n' "$n" "$pid" "$condition" "http://$(http_address "$n")"
        [[ $condition == ready ]] || all=1
    done
    return "$all"
}

restart() {
    local n deadline=$((SECONDS + ready_secs)) alive=1
    stop_nodes "$1"
    start_node "$1"
    for ((n = 1; n <= nodes; n++)); do
        if ((n != $1)) && node_pid "$n" >/dev/null && ! node_is_paused "$n"; then alive=$((alive + 1)); fi
    done
    # Without a quorum no node can become ready, and that is not this node's failure.
    if ((alive * 2 > nodes)); then
        await_node "$1" /readyz "$deadline"
        say "node $1 is ready"
    else
        await_node "$1" /livez "$deadline"
        say "node $1 runs, but is not ready: $alive of $nodes nodes are no quorum"
    fi
}

signal() {
    local pid
    pid=$(node_pid "$1") || fail "node $1 is not running"
    kill "-$2" "$pid"
    say "node $1: SIG$2"
}

logs() {
    local follow=()
    case ${2:-} in
        '') ;;
        -f) follow=(--follow) ;;
        *) bad_usage "unknown argument: $2" ;;
    esac
    [[ -f $local_dir/node$1.log ]] || fail "node $1 has no log yet"
    exec tail -n +1 "${follow[@]}" "$local_dir/node$1.log"
}

# Checks that an argument is one of this cluster's nodes.
check_node() {
    [[ $1 =~ ^[1-9]$ ]] || bad_usage "which node? expected a number from 1 to ${nodes:-$nodes_max}"
    [[ -n $nodes ]] || fail "there is no cluster in $local_dir; start one with 'up'"
    (($1 <= nodes)) || fail "there is no node $1; this cluster has $nodes"
}

main() {
    local command=${1:-} tool
    (($# == 0)) || shift
    case $command in
        up) ;;
        down | status | wipe) (($# == 0)) || bad_usage "$command takes no argument" ;;
        kill | restart | pause | resume) (($# == 1)) || bad_usage "$command takes one node's number" ;;
        logs) (($# >= 1 && $# <= 2)) || bad_usage "logs takes one node's number, and -f" ;;
        -h | --help | help) usage; return ;;
        '') bad_usage "what is to be done?" ;;
        *) bad_usage "unknown command: $command" ;;
    esac
    [[ -r /proc/self/stat ]] || fail "this script needs Linux's /proc"
    for tool in curl flock setsid; do
        command -v "$tool" >/dev/null || fail "$tool not found; please install it"
    done

    check_local_dir
    if [[ $command == up ]]; then
        mkdir -p "$local_dir"
    elif [[ ! -f $settings ]]; then
        case $command in
            down | wipe) say "there is no cluster in $local_dir"; return ;;
            status) fail "there is no cluster in $local_dir" ;;
        esac
    fi
    case $command in
        status | logs) ;;
        *) [[ ! -d $local_dir ]] || take_lock ;;
    esac
    load_settings
    case $command in
        kill | restart | pause | resume | logs) check_node "$1" ;;
    esac
    case $command in
        up) up "$@" ;;
        down) down ;;
        wipe) wipe ;;
        status) status ;;
        kill) kill_node "$1" && say "node $1: SIGKILL" ;;
        restart) restart "$1" ;;
        pause) signal "$1" STOP ;;
        resume) signal "$1" CONT ;;
        logs) logs "$@" ;;
    esac
}

main "$@"
