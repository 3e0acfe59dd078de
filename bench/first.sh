# Sourced by run.sh: the first backup of an image that is not cached, with an index and without, against rsync of the
# whole image; and what rechecking costs. Uses run.sh's variables and functions, and resync.sh's ways of syncing.
# shellcheck shell=bash

# One first backup: first_by indexed|plain|whole. How much bmapfs has read of the source goes to $work_disk/read.source.parent.
first_by() {
    local command=("$work_disk/counted" "$work_disk/read.source" rsync -a --inplace --whole-file -e "$work_disk/shell"
        --rsync-path "$work_disk/counted $work_disk/read.backup rsync")
    local enter=() index=()
    [ "$way" = local ] || enter=(ip netns exec "$near")
    [ "$1" != indexed ] || index=("--index=$work_disk/first-index")
    case $1 in
    indexed | plain)
        "${enter[@]}" "$BMAPFS" run -q ${index[@]+"${index[@]}"} "$work/image" -- \
            "${command[@]}" '{}/' "10.0.0.2:$work/backup/"
        ;;
    whole) "${enter[@]}" "${command[@]}" "$work/image" "10.0.0.2:$work/whole" ;;
    esac || die "a first backup: $1"
    settle
}

# One of them, from nothing: a line "seconds source", source in bytes that were read of the image.
measure_one_first() {
    local seconds
    rm -rf "$work/backup" "$work/whole" "$work_disk/first-index" "$work_disk/first-index.lock"
    mkdir "$work/backup"
    cool
    seconds=$(timed first_by "$1")
    if [ "$1" = whole ]; then
        echo "$seconds $(($(cat "$work_disk/read.source") - $(cat "$work_disk/read.shell")))"
        cmp "$work/whole" "$work/image" || die "rsync's own backup differs from the image"
    else
        echo "$seconds $(cat "$work_disk/read.source.parent")"
        cat "$work/backup"/* | cmp - "$work/image" || die 'the backup differs from the image'
    fi
}

# Lines of "medium way tool seconds source ratio" into $firsts; the ratio is the median of those to rsync's seconds in the
# same round.
measure_first() {
    local medium case round tool
    write_helpers
    for case in $first_cases; do
        medium=${case%/*}
        way=${case#*/}
        if [ "$medium" = ram ]; then work=$work_ram; else work=$work_disk; fi
        first_bytes=$((first_mib * 1048576))
        head -c "$first_bytes" /dev/urandom >"$work/image"
        sync "$work/image"
        REMOTE_SHELL=$work_disk/next-door
        export REMOTE_SHELL
        if [ "$way" = link ]; then
            REMOTE_SHELL=$work_disk/over-link
            if [ -z "$sshd_pid" ] && ! make_link; then
                say "bench: $case is left out"
                continue
            fi
        fi
        rm -f "$work_disk"/first-*
        for ((round = 0; round < first_rounds; round++)); do
            for tool in whole plain indexed; do measure_one_first "$tool" >>"$work_disk/first-$tool"; done
        done
        for tool in indexed plain whole; do
            echo "$medium $way $tool $(cut -d ' ' -f 1 "$work_disk/first-$tool" | median)" \
                "$(cut -d ' ' -f 2 "$work_disk/first-$tool" | median)" \
                "$(paste -d ' ' "$work_disk/first-$tool" "$work_disk/first-whole" | awk '{ print $1 / $3 }' | median)" \
                "$(paste -d ' ' "$work_disk/first-$tool" "$work_disk/first-plain" | awk '{ print $1 / $3 }' | median)"
        done | tee -a "$firsts" | awk -v bytes="$first_bytes" '{
            printf "first %-4s %-5s %-7s %7.2f s  source read %.3f times  %.2f of rsync  %.2f of no index\n",
                $1, $2, $3, $4, $5 / bytes, $6, $7 }' >&2
        rm -rf "$work/backup" "$work/whole" "$work/image" "$work_disk"/first-*
    done
    measure_recheck
}

# A quiet night with and without recheck=32: seconds of `bmapfs scan`, into $rechecks.
measure_recheck() {
    local round n
    work=$work_disk
    head -c "$((first_mib * 1048576))" /dev/urandom >"$work/image"
    sync "$work/image"
    sleep 3
    "$BMAPFS" scan -q "--index=$work/index" "$work/image"
    rm -f "$work_disk"/recheck-*
    for ((round = 0; round < rounds; round++)); do
        for n in 0 32; do
            drop "$work/image"
            timed "$BMAPFS" scan -q "--index=$work/index" -o "recheck=$n" "$work/image" >>"$work_disk/recheck-$n"
        done
    done
    echo "$(median <"$work_disk/recheck-0") $(median <"$work_disk/recheck-32")" | tee "$rechecks" |
        awk '{ printf "a quiet night %.3f s, with recheck=32 %.3f s\n", $1, $2 }' >&2
    rm -f "$work/image" "$work/index" "$work/index.lock" "$work_disk"/recheck-*
}

# The table that the page of comparisons shows, too.
first_table() {
    # The backquotes are Markdown's.
    # shellcheck disable=SC2016
    echo '| image | to | `bmapfs run --index` | `bmapfs run` | `rsync --inplace` of the image | source read, with index |'
    echo '| --- | --- | --- | --- | --- | --- |'
    awk -v gib="$((first_mib / 1024))" -v bytes="$((first_mib * 1048576))" '
        { key = $1 " " $2; if (!(key in seen)) { seen[key] = 1; keys[++rows] = key }
          seconds[key, $3] = $4; read[key, $3] = $5; whole[key, $3] = $6; plain[key, $3] = $7 }
        END { for (r = 1; r <= rows; r++) {
            k = keys[r]; split(k, part, " ")
            printf "| %d GiB %s | %s | %.1f s (%.2f of rsync, %.2f of no index) | %.1f s (%.2f) | %.1f s | %.3f times |\n", gib,
                part[1] == "ram" ? "in RAM" : "on a cold disk", part[2] == "link" ? "1 Gbit/s" : "same machine",
                seconds[k, "indexed"], whole[k, "indexed"], plain[k, "indexed"], seconds[k, "plain"], whole[k, "plain"],
                seconds[k, "whole"], read[k, "indexed"] / bytes
        } }' "$firsts"
}

report_first() {
    [ -s "$firsts" ] || return 0
    echo
    echo "First backups, medians of $first_rounds rounds; the ratios are medians of those of each round:"
    echo
    first_table
    echo
    echo "Goals: with an index 1.05 of without, 1.10 of rsync; the source read 1.01 times."
    awk '{ printf "\nA quiet night of an image on disk (`bmapfs scan`, nothing was written): %.2f s, with `-o recheck=32` %.2f s.\n",
        $1, $2 }' "$rechecks"
}
