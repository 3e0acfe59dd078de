# Sourced by run.sh: a sparse image of which a page has changed, by `bmapfs run --sparse --index` and rsync, by
# `rsync -S --inplace` of the whole image, and by bmaptool; to the same machine and over a slow link. And how long a
# very sparse image takes to mount and list. Uses the variables and functions of run.sh and resync.sh.
# shellcheck shell=bash

# Makes $work/image: $virtsync_gib GiB, of which $1 MiB are random bytes, in runs of 8 MiB as far apart as can be that
# begin at no block's start.
make_sparse() {
    local runs=$(($1 / 8)) size=$((virtsync_gib * 1024)) run
    rm -f "$work/image"
    truncate -s "${virtsync_gib}G" "$work/image"
    for ((run = 0; run < runs; run++)); do
        head -c 8M /dev/urandom |
            dd of="$work/image" bs=64K conv=notrunc oflag=seek_bytes status=none iflag=fullblock \
                seek=$((size / runs * run * 1048576 + 12288))
    done
    sync "$work/image"
}

# Changes a page of data somewhere in the middle of the image.
change_page() {
    head -c 4K /dev/urandom |
        dd of="$work/image" bs=4K conv=notrunc oflag=seek_bytes status=none iflag=fullblock \
            seek=$((virtsync_gib * 1024 / virtsync_runs * (virtsync_runs / 2) * 1048576 + 1048576))
    sync "$work/image"
}

# bmaptool has no way to send what changed: it makes a map of the image and copies all that is mapped.
bmaptool_sync() {
    bmaptool -q create -o "$work/map" "$work/image" && bmaptool -q copy --bmap "$work/map" "$work/image" "$work/mapped"
    settle
}

# A line "medium way bmaptool seconds bytes 0 0 1" as measure_sync makes them.
measure_bmaptool() {
    local seconds
    cool
    seconds=$(timed bmaptool_sync)
    echo "$seconds $((virtsync_mib * 1048576)) 0 0 1"
}

# What bmapfs and rsync have made of the image: the backup block file by block file, the copy where it has data.
check_virtsync() {
    "$BMAPFS" run -q --sparse "$work/image" -- diff -r '{}' "$work/backup" || die 'the backup differs from the image'
    local at=$((virtsync_gib * 1024 / virtsync_runs * (virtsync_runs / 2) * 1048576))
    cmp -i "$at" -n 16M "$work/whole" "$work/image" || die "rsync's own backup differs from the image"
}

# Lines of "medium way tool seconds wire source backup files" into $virtsyncs.
measure_virtsync() {
    local medium way tool round case tools
    [ -x "$work_disk/counted" ] || write_helpers
    for medium in ram disk; do
        case " $virtsync_cases " in *" $medium/"*) ;; *) continue ;; esac
        if [ "$medium" = ram ]; then work=$work_ram; else work=$work_disk; fi
        virtsync_mib=$(fitting "$(dirname "$work")" "$virtsync_data_mib")
        virtsync_runs=$((virtsync_mib / 8))
        echo "$medium $virtsync_gib $virtsync_mib" >>"$work_disk/virtsync-sizes"
        mkdir "$work/backup"
        make_sparse "$virtsync_mib"
        cp --sparse=always "$work/image" "$work/whole"
        tools='sparse sparse-whole'
        if command -v bmaptool >/dev/null; then tools="$tools bmaptool"; fi
        way=local
        REMOTE_SHELL=$work_disk/next-door
        export REMOTE_SHELL
        sync_by sparse
        for case in $virtsync_cases; do
            [ "${case%/*}" = "$medium" ] || continue
            way=${case#*/}
            if [ "$way" = link ]; then
                REMOTE_SHELL=$work_disk/over-link
                if [ -z "$sshd_pid" ] && ! make_link || ! set_rate 10mbit 32kb 50ms; then
                    say "bench: $case is left out"
                    continue
                fi
            fi
            rm -f "$work_disk"/tool-*
            for ((round = 0; round < virtsync_rounds; round++)); do
                change_page
                for tool in $tools; do
                    case $tool/$way in
                    bmaptool/link) ;;
                    bmaptool/*) measure_bmaptool >>"$work_disk/tool-$tool" ;;
                    *) measure_sync "$tool" >>"$work_disk/tool-$tool" ;;
                    esac
                done
                check_virtsync
            done
            for tool in $tools; do
                [ -e "$work_disk/tool-$tool" ] || continue
                echo "$medium $way $tool $(medians <"$work_disk/tool-$tool")" | tee -a "$virtsyncs" |
                    awk '{ printf "%-4s %-5s %-12s %7.2f s  wire %8.1f MB  read %8.1f + %8.1f MB  %d files\n",
                        $1, $2, $3, $4, $5 / 1e6, $6 / 1e6, $7 / 1e6, $8 }' >&2
            done
        done
        if [ -n "$sshd_pid" ]; then set_rate 1gbit 256kb 20ms; fi
        rm -rf "$work/backup" "$work/image" "$work/whole" "$work/map" "$work/mapped"
    done
    measure_sparse_list
}

# Lines of "size data-MiB mount-seconds list-seconds files" into $sparse_lists.
measure_sparse_list() {
    local round virtsync_gib=16384
    work=$work_ram
    make_sparse "$virtsync_list_mib"
    : >"$work/times"
    : >"$work/lists"
    for ((round = 0; round < rounds; round++)); do
        timed attach --sparse "$work/image" "$work/mnt" >>"$work/times"
        timed env LC_ALL=C ls -lU "$work/mnt" >>"$work/lists"
        [ "$round" != 0 ] || ls "$work/mnt" | wc -l >"$work/files"
        unmount "$work/mnt"
    done
    echo "16T $virtsync_list_mib $(median <"$work/times") $(median <"$work/lists") $(cat "$work/files")" |
        tee -a "$sparse_lists" |
        awk '{ printf "%s sparse with %d MiB of data: mounted in %.0f ms, %d files listed in %.0f ms\n",
            $1, $2, $3 * 1000, $5, $4 * 1000 }' >&2
    rm -f "$work/image" "$work/files"
}

# The table that doc/COMPARISON.md shows, too.
virtsync_table() {
    # The backquotes are Markdown's.
    # shellcheck disable=SC2016
    echo '| sparse image | to | `bmapfs run --sparse --index` | `rsync -S --inplace` | bmaptool |'
    echo '| --- | --- | --- | --- | --- |'
    awk -v sizes="$(paste -s -d ' ' "$work_disk/virtsync-sizes")" '
        BEGIN { n = split(sizes, part, " ")
                for (i = 1; i < n; i += 3) size[part[i]] = sprintf("%d GiB with %.3g GiB of data", part[i + 1], part[i + 2] / 1024) }
        { key = $1 " " $2; if (!(key in seen)) { seen[key] = 1; keys[++rows] = key }
          seconds[key, $3] = $4; wire[key, $3] = $5 }
        function cell(key, tool, times) {
            if (!((key, tool) in seconds)) return "-"
            times = tool == "sparse" ? "" : sprintf(" (%.1f x)", seconds[key, tool] / seconds[key, "sparse"])
            return sprintf("%.1f s, %.2f MB%s", seconds[key, tool], wire[key, tool] / 1e6, times)
        }
        END { for (r = 1; r <= rows; r++) {
            split(keys[r], k, " ")
            printf "| %s, %s | %s | %s | %s | %s |\n", size[k[1]], k[1] == "ram" ? "in RAM" : "on a cold disk",
                k[2] == "link" ? "10 Mbit/s" : "same machine", cell(keys[r], "sparse"), cell(keys[r], "sparse-whole"),
                cell(keys[r], "bmaptool")
        } }' "$virtsyncs"
}

report_virtsync() {
    if [ -s "$virtsyncs" ]; then
        echo
        echo "Resync of a sparse image of which 4 KiB have changed, medians of $virtsync_rounds rounds: seconds, what went" \
            "over the wire, and in parentheses the seconds as a multiple of bmapfs's. bmaptool copies all data."
        echo
        virtsync_table
        echo
        echo "| medium | to | tool | read of the source | read of the backup | files transferred |"
        echo "| --- | --- | --- | --- | --- | --- |"
        awk '$3 != "bmaptool" { printf "| %s | %s | %s | %.1f MB | %.1f MB | %d |\n",
            $1, $2, $3 == "sparse" ? "bmapfs" : "rsync", $6 / 1e6, $7 / 1e6, $8 }' "$virtsyncs"
        echo
        echo "Goal: less than 20 s over 10 Mbit/s."
    fi
    if [ -s "$sparse_lists" ]; then
        echo
        awk '{ printf "A sparse image of %s with %d MiB of data: mounted with --sparse in %.0f ms, its %d block files listed (`ls -l`) in %.0f ms. Goal: less than 200 ms together.\n",
            $1, $2, $3 * 1000, $5, $4 * 1000 }' "$sparse_lists"
    fi
}
