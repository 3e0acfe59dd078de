#!/usr/bin/env bash
# The main job of bmapfs on a real image, step by step: back it up with rsync, change it, back it up again,
# restore it, compare. `make demo` runs this. Works as root and as an ordinary user.
#
#   BMAPFS=path/to/bmapfs doc/demo.sh               on an ext4 image made for it
#   SRC=disk.img BMAPFS=path/to/bmapfs doc/demo.sh  on a copy of yours; yours is only read
#
#   DEMO_SIZE  size of the image that is made [256M]
#   DEMO_DIR   where everything is put, and removed at the end [$TMPDIR or /var/tmp]
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

BMAPFS=${BMAPFS:-bmapfs}
SRC=${SRC:-}
work=
mounts=()

die() {
    echo "demo: $*" >&2
    exit 1
}

step_number=0
step() {
    step_number=$((step_number + 1))
    printf '\n%d. %s\n' "$step_number" "$*"
}

# Shows a command, then runs it; what the command prints may be redirected without it.
exec 3>&1
run() {
    printf '   $ %s\n' "${*/#"$BMAPFS"/bmapfs}" >&3
    "$@"
}

human() { numfmt --to=iec-i --suffix=B --format=%.1f "$1"; }

unmount() {
    if [ "$(id -u)" = 0 ]; then umount "$1"; else fusermount3 -u "$1"; fi
}

cleanup() {
    status=$?
    trap - EXIT
    trap '' INT TERM HUP
    set +e
    cd /
    for dir in "${mounts[@]}"; do
        for _ in 1 2 3 4 5; do
            mountpoint -q "$dir" || break
            unmount "$dir" 2>/dev/null || sleep 1
        done
    done
    if [ -n "$work" ]; then
        if findmnt -rn -o TARGET | grep -qF "$work/"; then
            echo "demo: something is still mounted below $work: left as it is" >&2
            status=1
        else
            rm -rf "$work"
        fi
    fi
    exit "$status"
}

# Mounts with bmapfs: attach IMAGE DIR [OPTION...]
attach() {
    local image=$1 dir=$2
    shift 2
    run "$BMAPFS" "$@" "$image" "$dir"
}

detach() {
    if [ "$(id -u)" = 0 ]; then run umount "$1"; else run fusermount3 -u "$1"; fi
}

# What rsync --stats says of its work, in words: sync_stats COMMAND...
sync_stats() {
    run "$@" >stats
    local files sent transferred
    files=$(sed -n 's/^Number of files:.*reg: \([0-9,]*\).*/\1/p' stats | tr -d ,)
    transferred=$(sed -n 's/^Number of regular files transferred: //p' stats | tr -d ,)
    sent=$(sed -n 's/^Total bytes sent: //p' stats | tr -d ,)
    echo "   $transferred of ${files:-0} block files transferred, $sent bytes sent ($(human "$sent"))"
}

# The file system type of an image, or nothing.
type_of() { blkid -p -s TYPE -o value "$1" 2>/dev/null || true; }

# Changes a few files inside the file system of an image, or a few bytes where that cannot be done.
change() {
    local image=$1 can_loop=
    head -c 3000000 /dev/urandom >new-file
    case $(type_of "$image") in
    ext2 | ext3 | ext4) ;;
    *)
        echo "   no ext file system in the image: overwriting three runs of 64 KiB instead"
        local size
        size=$(stat -c %s "$image")
        for part in 1 2 3; do
            head -c 65536 /dev/urandom |
                dd of="$image" bs=64K seek=$((size * part / 4 / 65536)) conv=notrunc status=none
        done
        return
        ;;
    esac
    if [ "$(id -u)" = 0 ] && losetup -f >/dev/null 2>&1; then can_loop=1; fi
    if [ -n "$can_loop" ] && run mount -o loop "$image" inside; then
        run cp new-file inside/bmapfs-demo-new
        date >inside/bmapfs-demo-date
        echo "   $ date > inside/bmapfs-demo-date"
        run umount inside
    else
        echo "   (without a loop mount: debugfs writes into the file system)"
        date >date-file
        run debugfs -w -R "write new-file bmapfs-demo-new" "$image" >/dev/null 2>&1
        run debugfs -w -R "write date-file bmapfs-demo-date" "$image" >/dev/null 2>&1
        debugfs -R 'ls -p /' "$image" 2>/dev/null | grep -q bmapfs-demo-date ||
            die "debugfs could not write into the image"
    fi
}

trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

path=$(command -v "$BMAPFS") || die "$BMAPFS is not there: make it with 'cargo build --release', or set BMAPFS"
BMAPFS=$(readlink -e "$path")
here=$(cd "$(dirname "$0")" && pwd)
if [ -n "$SRC" ]; then
    path=$(readlink -e "$SRC") || die "$SRC: no such file"
    [ -r "$path" ] || die "$SRC: not readable"
    SRC=$path
fi
for tool in rsync mke2fs e2fsck debugfs blkid mountpoint findmnt; do
    command -v "$tool" >/dev/null || die "$tool is missing: apt install rsync e2fsprogs util-linux mount"
done
if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then
    die "/dev/fuse is missing or not yours to open: modprobe fuse, or chmod 0666 /dev/fuse"
fi

work=$(mktemp -d "${DEMO_DIR:-${TMPDIR:-/var/tmp}}/bmapfs-demo.XXXXXX")
work=$(readlink -e "$work")
mkdir "$work/mnt" "$work/backup" "$work/inside"
mounts=("$work/mnt" "$work/inside")
# From here on names are short, because they are relative.
cd "$work"
image=disk.img
restored=restored.img
echo "Everything happens in $work."

if [ -n "$SRC" ]; then
    if [ -b "$SRC" ]; then bytes=$(blockdev --getsize64 "$SRC"); else bytes=$(stat -Lc %s "$SRC"); fi
    free=$(($(stat -fc '%a * %S' "$work")))
    [ "$free" -gt $((bytes * 3)) ] ||
        die "$work: $(human "$free") free, and up to three times $(human "$bytes") are needed: set DEMO_DIR"
    step "Your image: $SRC, $(human "$bytes"). It is only read; the changes below go to a copy."
    if [ -b "$SRC" ]; then
        run dd if="$SRC" of="$image" bs=4M conv=sparse status=none
        truncate -s "$bytes" "$image"
    else
        run cp --reflink=auto --sparse=always "$SRC" "$image"
    fi
    chmod u+w "$image"
    first=$SRC
else
    size=${DEMO_SIZE:-256M}
    step "An image of $size with an ext4 file system and some files in it"
    bytes=$(numfmt --from=iec "$size") || die "DEMO_SIZE: a size like 256M, not '$size'"
    mkdir tree
    for n in 1 2 3 4 5 6 7 8; do head -c $((bytes / 32)) /dev/urandom >"tree/file-$n"; done
    cp -r "$here" tree/doc
    run truncate -s "$bytes" "$image"
    run mke2fs -q -t ext4 -d tree "$image"
    rm -rf tree
    first=$image
fi

step "Mounted with bmapfs, it is a directory of block files"
attach "$first" mnt
find mnt -maxdepth 1 -name '0000000[0-2]' -exec ls -l {} + | sed 's/^/   /'
echo "   ... $(find mnt -type f | wc -l) in all"

detach mnt

# bmapfs run mounts, puts the directory in place of {}, and unmounts when rsync has ended.
backup=("$BMAPFS" run -q "--index=disk.index")
step "The first backup reads and copies everything, and keeps an index"
sync_stats "${backup[@]}" "$first" -- rsync -a --inplace --stats '{}/' backup/

step "Something changes inside the image"
change "$image"

step "The second backup reads the image once, and copies the block files with new times"
sync_stats "${backup[@]}" "$image" -- rsync -a --inplace --stats '{}/' backup/
echo "   the backup is the image, byte for byte:"
echo "   $ cat backup/* | cmp - $image"
cat backup/* | cmp - "$image" || die "the backup differs from the image"

step "The restore, into an empty image: a writable mount (-w), and rsync the other way"
run truncate -s "$(stat -c %s "$image")" "$restored"
sync_stats "$BMAPFS" run -q -w "$restored" -- rsync -a --inplace --stats backup/ '{}/'

step "The restored image is the image"
run cmp "$image" "$restored"
echo "   the same, all $(stat -c %s "$restored") bytes"
case $(type_of "$restored") in
ext2 | ext3 | ext4)
    if ! run e2fsck -f -n "$restored" 2>&1 | sed 's/^/   /'; then
        e2fsck -f -n "$image" >/dev/null 2>&1 && die "the restored file system is damaged"
        echo "   e2fsck says the same of the image that was backed up"
    fi
    debugfs -R 'ls -p /' "$restored" 2>/dev/null | grep -q bmapfs-demo-new ||
        die "the new file is not in the restored image"
    echo "   and the new file is in it"
    ;;
esac

printf '\nDone. Everything that the demo made is removed again.\n'
