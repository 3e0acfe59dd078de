# Sourced by run.sh: a resync after a part of an image has changed, by `bmapfs run --index` and rsync, and by rsync
# on the whole image, to the same machine and over a link of 1 Gbit/s. Uses run.sh's variables and functions.
# virtsync.sh uses the link, too, and the ways of syncing.
# shellcheck shell=bash

near=bmapfs-near-$$
far=bmapfs-far-$$
sshd_pid=
made_run_sshd=

# Two network namespaces, a cable of 1 Gbit/s between them, and an sshd at the far end.
make_link() {
    local side
    [ "$(id -u)" = 0 ] || { say 'bench: not root: no link'; return 1; }
    ip netns add "$near" && ip netns add "$far" || return 1
    ip link add near netns "$near" type veth peer name far netns "$far" || return 1
    for side in near far; do
        local space=${!side}
        ip -n "$space" link set lo up
        ip -n "$space" link set "$side" up
    done
    set_rate 1gbit 256kb 20ms || return 1
    ip -n "$near" address add 10.0.0.1/24 dev near
    ip -n "$far" address add 10.0.0.2/24 dev far
    ssh-keygen -q -t ed25519 -N '' -f "$work_disk/host-key"
    ssh-keygen -q -t ed25519 -N '' -f "$work_disk/key"
    if [ ! -d /run/sshd ]; then
        mkdir /run/sshd
        made_run_sshd=1
    fi
    printf '%s\n' 'ListenAddress 10.0.0.2' "HostKey $work_disk/host-key" "AuthorizedKeysFile $work_disk/key.pub" \
        'StrictModes no' 'UsePAM no' 'PermitRootLogin prohibit-password' 'PidFile none' >"$work_disk/sshd_config"
    ip netns exec "$far" /usr/sbin/sshd -D -f "$work_disk/sshd_config" -E "$work_disk/sshd.log" &
    sshd_pid=$!
    printf '%s\n' '#!/bin/sh' "exec ssh -q -i $work_disk/key -o BatchMode=yes -o StrictHostKeyChecking=no" \
        >"$work_disk/over-link"
    sed -i '2s/$/ -o UserKnownHostsFile=\/dev\/null "$@"/' "$work_disk/over-link"
    chmod +x "$work_disk/over-link"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        ip netns exec "$near" "$work_disk/over-link" 10.0.0.2 true && return 0
        sleep 0.5
    done
    say "bench: no ssh over the link: $(tail -n 3 "$work_disk/sshd.log")"
    return 1
}

# How fast the cable is, both ways: set_rate RATE BURST LATENCY, as tc-tbf(8) has them.
set_rate() {
    tc -n "$near" qdisc replace dev near root tbf rate "$1" burst "$2" latency "$3" &&
        tc -n "$far" qdisc replace dev far root tbf rate "$1" burst "$2" latency "$3"
}

remove_link() {
    if [ -n "$sshd_pid" ]; then
        kill "$sshd_pid" 2>/dev/null
        wait "$sshd_pid" 2>/dev/null
        sshd_pid=
    fi
    ip netns delete "$near" 2>/dev/null
    ip netns delete "$far" 2>/dev/null
    if [ -n "$made_run_sshd" ]; then rmdir /run/sshd 2>/dev/null; fi
}

# counted FILE COMMAND...: runs it, and notes what it and its children have read, from files or from elsewhere.
write_helpers() {
    cat >"$work_disk/counted" <<'END'
#!/bin/sh
out=$1
shift
"$@"
status=$?
sed -n 's/^rchar: //p' /proc/$$/io >"$out"
sed -n 's/^rchar: //p' /proc/$PPID/io >"$out.parent"
exit $status
END
    # What rsync calls in place of ssh: the two halves of a local rsync, joined by pipes.
    cat >"$work_disk/next-door" <<'END'
#!/bin/sh
shift
sh -c "$*"
END
    # The remote shell reads what it passes on, which must not count as read of the source.
    printf '#!/bin/sh\nexec %s %s "$REMOTE_SHELL" "$@"\n' "$work_disk/counted" "$work_disk/read.shell" \
        >"$work_disk/shell"
    chmod +x "$work_disk"/counted "$work_disk"/next-door "$work_disk"/shell
}

# The bytes that went over the cable so far, both ways.
on_wire() {
    ip netns exec "$near" cat /sys/class/net/near/statistics/tx_bytes /sys/class/net/near/statistics/rx_bytes |
        awk '{ sum += $1 } END { printf "%.0f\n", sum }'
}

# Overwrites some percent of the image, in runs of $run_kib at random places; 0 only touches it.
change() {
    if [ "$1" = 0 ]; then
        touch "$work/image"
    else
        fio --name=change --filename="$work/image" --rw=randwrite --bs="${run_kib}k" --blockalign=4k --norandommap=1 \
            --ioengine=psync --io_size="$((resync_bytes / 100 * $1))" --size="$resync_bytes" \
            --randseed="$RANDOM$RANDOM" --refill_buffers=1 --overwrite=1 --fallocate=none >"$work_disk/fio.log" 2>&1 ||
            die "fio: $(cat "$work_disk/fio.log")"
    fi
    sync "$work/image"
}

# On a disk both sides are cold, and what is written counts only when it is there.
cool() {
    [ "$medium" = disk ] || return 0
    sync -f "$work"
    drop "$work/image"
    [ ! -e "$work/whole" ] || drop "$work/whole"
    find "$work/backup" -type f -exec sh -c 'for f; do dd if="$f" iflag=nocache count=0 status=none; done' sh {} +
}

settle() { [ "$medium" != disk ] || sync -f "$work"; }

# One way of syncing: sync_by bmapfs|delta|whole|first|sparse|sparse-whole. rsync's --stats go to $work/stats.
sync_by() {
    local common=(rsync -a --inplace --stats -e "$work_disk/shell"
        --rsync-path "$work_disk/counted $work_disk/read.backup rsync")
    local at=10.0.0.2
    # As rsync itself does: whole files to the same machine, deltas to others.
    local usual=--no-whole-file
    [ "$way" = link ] || usual=--whole-file
    local counted=("$work_disk/counted" "$work_disk/read.source")
    local enter=()
    [ "$way" = local ] || enter=(ip netns exec "$near")
    case $1 in
    first | bmapfs)
        "${enter[@]}" "$BMAPFS" run "--index=$work_disk/resync-index-$medium" "$work/image" -- \
            "${counted[@]}" "${common[@]}" "$usual" '{}/' "$at:$work/backup/" >"$work/stats" 2>"$work/summary"
        ;;
    sparse)
        "${enter[@]}" "$BMAPFS" run --sparse "--index=$work_disk/virtsync-index-$medium" "$work/image" -- \
            "${counted[@]}" "${common[@]}" --delete "$usual" '{}/' "$at:$work/backup/" >"$work/stats" 2>"$work/summary"
        ;;
    sparse-whole)
        "${enter[@]}" "${counted[@]}" "${common[@]}" -S "$usual" "$work/image" "$at:$work/whole" >"$work/stats"
        ;;
    # -I, since the other of the two has just synced the same file.
    delta | whole)
        [ "$1" = whole ] || usual=--no-whole-file
        [ "$1" = delta ] || usual=--whole-file
        "${enter[@]}" "${counted[@]}" "${common[@]}" "$usual" -I "$work/image" "$at:$work/whole" >"$work/stats"
        ;;
    esac || die "resync by $1: $(cat "$work/summary" "$work/stats")"
    settle
}

# A number out of rsync's --stats.
stat_of() { sed -n "s/^$1: \([0-9,]*\).*/\1/p" "$work/stats" | tr -d ,; }

# One measured sync: a line "seconds wire read-of-source read-of-backup files".
measure_sync() {
    local wire seconds sent source backup
    cool
    [ "$way" = local ] || wire=$(on_wire)
    seconds=$(timed sync_by "$1")
    sent=$(($(stat_of 'Total bytes sent') + $(stat_of 'Total bytes received')))
    if [ "$way" = local ]; then wire=$sent; else wire=$(($(on_wire) - wire)); fi
    source=$(($(cat "$work_disk/read.source") - $(cat "$work_disk/read.shell")))
    backup=$(($(cat "$work_disk/read.backup") - $(stat_of 'Total bytes sent')))
    if [ "$1" = bmapfs ] || [ "$1" = sparse ]; then
        source=$((source + $(sed -n 's/.* \([0-9]*\) bytes read.*/\1/p' "$work/summary")))
    fi
    echo "$seconds $wire $source $backup $(stat_of 'Number of regular files transferred')"
}

# The medians of the columns of standard input, on one line.
medians() {
    local rows column
    rows=$(cat)
    for column in 1 2 3 4 5; do awk -v c="$column" '{ print $c }' <<<"$rows" | median; done | paste -s -d ' '
}

# As many MiB as wanted, or as there is room for three times: fitting DIRECTORY MIB
fitting() {
    local room
    room=$(df --output=avail -B 1M "$1" | tail -n 1)
    if [ "$1" = "$ram" ]; then
        room=$(awk -v room="$room" '/^MemAvailable/ { free = int($2 / 1024); print free < room ? free : room }' \
            /proc/meminfo)
    fi
    room=$(((room - 1024) / 3 / 256 * 256))
    if [ "$room" -lt "$2" ]; then
        say "bench: $1 has room for an image of $room MiB only, not $2"
        echo "$room"
    else
        echo "$2"
    fi
}

# Lines of "medium way percent tool seconds wire source backup files" into $resyncs; "hash" is the bare loop.
measure_resync() {
    local medium way percent tool round times case
    write_helpers
    for medium in ram disk; do
        case " $resync_cases " in *" $medium/"*) ;; *) continue ;; esac
        if [ "$medium" = ram ]; then
            work=$work_ram
            times=$resync_rounds
            resync_bytes=$(($(fitting "$ram" "$resync_ram_mib") * 1048576))
        else
            work=$work_disk
            times=$resync_disk_rounds
            resync_bytes=$(($(fitting "$disk" "$resync_disk_mib") * 1048576))
        fi
        echo "$medium $((resync_bytes / 1048576))" >>"$work_disk/resync-sizes"
        mkdir "$work/backup"
        head -c "$resync_bytes" /dev/urandom >"$work/image"
        cp --sparse=never --reflink=never "$work/image" "$work/whole"
        way=local
        REMOTE_SHELL=$work_disk/next-door
        export REMOTE_SHELL
        sync_by first
        for case in $resync_cases; do
            [ "${case%/*}" = "$medium" ] || continue
            way=${case#*/}
            if [ "$way" = link ]; then
                REMOTE_SHELL=$work_disk/over-link
                if [ -z "$sshd_pid" ] && ! make_link; then
                    say "bench: $case is left out"
                    continue
                fi
            fi
            for percent in $resync_percents; do
                rm -f "$work_disk"/tool-*
                for ((round = 0; round < times; round++)); do
                    change "$percent"
                    for tool in bmapfs delta whole; do measure_sync "$tool" >>"$work_disk/tool-$tool"; done
                    cool
                    echo "$("$BARE_HASH" "$work/image" | cut -d ' ' -f 2) 0 $resync_bytes 0 0" >>"$work_disk/tool-hash"
                    cat "$work/backup"/* | cmp - "$work/image" || die 'the backup differs from the image'
                    cmp "$work/whole" "$work/image" || die "rsync's own backup differs from the image"
                done
                for tool in bmapfs delta whole hash; do
                    echo "$medium $way $percent $tool $(medians <"$work_disk/tool-$tool")" | tee -a "$resyncs" |
                        awk '{ printf "%-4s %-5s %2d %%  %-6s %7.2f s  wire %8.1f MB  read %8.1f + %8.1f MB  %d files\n",
                            $1, $2, $3, $4, $5, $6 / 1e6, $7 / 1e6, $8 / 1e6, $9 }' >&2
                done
            done
        done
        rm -rf "$work/backup" "$work/image" "$work/whole"
    done
}

# The table that doc/COMPARISON.md shows, too.
resync_table() {
    # The backquotes are Markdown's.
    # shellcheck disable=SC2016
    echo '| image | to | changed | `bmapfs run --index` | rsync, deltas | rsync, whole file | one pass of BLAKE3 |'
    echo '| --- | --- | --- | --- | --- | --- | --- |'
    awk -v sizes="$(paste -s -d ' ' "$work_disk/resync-sizes")" '
        BEGIN { n = split(sizes, part, " "); for (i = 1; i < n; i += 2) size[part[i]] = part[i + 1] / 1024 }
        { key = $1 " " $2 " " $3; if (!(key in seen)) { seen[key] = 1; keys[++rows] = key }
          seconds[key, $4] = $5; wire[key, $4] = $6 }
        function cell(key, tool, times) {
            times = tool == "bmapfs" ? "" : sprintf(" (%.1f x)", seconds[key, tool] / seconds[key, "bmapfs"])
            return sprintf("%.1f s, %.1f MB%s", seconds[key, tool], wire[key, tool] / 1e6, times)
        }
        END { for (r = 1; r <= rows; r++) {
            split(keys[r], k, " ")
            printf "| %.3g GiB %s | %s | %d %% | %s | %s | %s | %.1f s |\n", size[k[1]],
                k[1] == "ram" ? "in RAM" : "on a cold disk", k[2] == "link" ? "1 Gbit/s" : "same machine", k[3],
                cell(keys[r], "bmapfs"), cell(keys[r], "delta"), cell(keys[r], "whole"), seconds[keys[r], "hash"]
        } }' "$resyncs"
}

report_resync() {
    [ -s "$resyncs" ] || return 0
    echo
    echo "Resync, medians of $resync_rounds rounds in RAM and $resync_disk_rounds on disk: seconds, what went over the wire," \
        "and in parentheses the seconds as a multiple of bmapfs's. What changed lies in runs of $run_kib KiB at random places."
    echo
    resync_table
    echo
    echo "| medium | to | changed | tool | read of the source | read of the backup | files transferred |"
    echo "| --- | --- | --- | --- | --- | --- | --- |"
    awk '$4 != "hash" { printf "| %s | %s | %d %% | %s | %.1f MB | %.1f MB | %d |\n",
        $1, $2, $3, $4, $7 / 1e6, $8 / 1e6, $9 }' "$resyncs"
    echo
    echo "Goals at 1 %: 5 times faster than the whole image, and one pass of BLAKE3 plus 0.5 s."
}

# Puts a table between the marks in a page: into_comparison PAGE NAME, where NAME_table prints it.
into_comparison() {
    local new
    new=$(mktemp)
    "$2_table" >"$work_disk/comparison-table"
    awk -v table="$work_disk/comparison-table" -v name="$2" '
        index($0, "<!-- end of " name " -->") == 1 { skip = 0 }
        !skip { print }
        index($0, "<!-- " name ":") == 1 { while ((getline line < table) > 0) print line; skip = 1 }' "$1" >"$new"
    cat "$new" >"$1"
    rm -f "$new"
}
