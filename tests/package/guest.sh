#!/bin/bash
# The Debian package from its installation to its purge, as root in a fresh Debian that systemd has booted. /old.deb is the
# package of the version before. The last line says that all went well.
set -eEuo pipefail
failed() {
    echo "line $1: $2"
    systemctl status --no-pager --full 'bmapfs@*'
    journalctl --no-pager --lines 50
}
trap 'failed "$LINENO" "$BASH_COMMAND"' ERR
set -x

# Everything that is not in memory, and not what dpkg, apt, man and systemd keep for themselves.
files() {
    find / -xdev \( -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache -o -path /var/log -o -path /root \
        -o -path /var/lib/systemd -o -path /tmp -o -path /guest.log \) -prune -o -print | sort
}
refuse() { if "$@"; then false; fi; }
quiet() { export DEBIAN_FRONTEND=noninteractive; apt-get -y -qq "$@"; }
status_of() { systemctl show --value --property "$1" "$2"; }

useradd --create-home user
mkdir -p /var/lib/vm /backup
head -c 10M /dev/urandom >/var/lib/vm/web.img
files >/root/before

# Installed, of the version before.
quiet install /old.deb
old=$(bmapfs --version)
systemd-analyze verify bmapfs@web.service bmapfs@web.timer
bmapfs --check /var/lib/vm
test "$(bmapfs --check | grep -c '^ok .*\(mount can\|mount(8)\|the helpers\|every user can\|rsync\)')" = 6
for page in bmapfs mount.bmapfs umount.fuse.bmapfs; do man --pager=cat $page | grep 'block files' >/dev/null; done
bash -c '. /usr/share/bash-completion/completions/bmapfs && complete -p bmapfs'
test -s /usr/share/zsh/vendor-completions/_bmapfs -a -s /usr/share/fish/vendor_completions.d/bmapfs.fish

# The main job: the first night, one in which nothing was written, one in which one byte was; the backup is right.
night() { bmapfs run --index /var/lib/vm/web.img -- rsync -ai --inplace '{}/' /backup/web/ | grep -c '^>f' || true; }
test "$(night)" = 3
test "$(night)" = 0
printf x | dd of=/var/lib/vm/web.img bs=1 seek=5M conv=notrunc status=none
test "$(night)" = 1
bmapfs verify /var/lib/vm/web.img /backup/web
cat /backup/web/* | cmp - /var/lib/vm/web.img
# A restore, of one block and of all.
cp /var/lib/vm/web.img /root/copy.img
printf y | dd of=/var/lib/vm/web.img bs=1 seek=5M conv=notrunc status=none
bmapfs run -w /var/lib/vm/web.img -- cp /backup/web/00000001 '{}/'
cmp /root/copy.img /var/lib/vm/web.img
truncate -s 0 /var/lib/vm/web.img
truncate -s 10M /var/lib/vm/web.img
bmapfs run -w /var/lib/vm/web.img -- rsync -a --inplace /backup/web/ '{}/'
cmp /root/copy.img /var/lib/vm/web.img

# mount(8) and umount(8), with an upgrade while it is mounted, and of a user.
mount -t bmapfs -o ro,index /var/lib/vm/web.img /mnt
test "$(findmnt -n -o FSTYPE /mnt)" = fuse.bmapfs
cat /mnt/* | cmp - /var/lib/vm/web.img
quiet install /new.deb
test "$old" != "$(bmapfs --version)" -o "$(dpkg-query -W -f '${Version}' bmapfs)" = "$(dpkg-deb -f /new.deb Version)"
cat /mnt/* | cmp - /var/lib/vm/web.img
umount /mnt
# Its daemon has ended; it may be that nobody has taken note of that yet.
while grep -qsx bmapfs /proc/[0-9]*/comm; do sleep 0.05; done
runuser -u user -- sh -ec 'cd; mkdir mnt; echo content >a.img; bmapfs a.img mnt; cmp a.img mnt/00000000; umount mnt; rm -r mnt a.img'

# A night by the unit, and its report, which others do not take away.
sed 's|backup@host:||' /etc/bmapfs/example.conf >/etc/bmapfs/web.conf
systemctl start bmapfs@web
grep '"status":0' /run/bmapfs/web.json
cat /backup/web/* | cmp - /var/lib/vm/web.img
# Several sources, one with a space in its name.
ln /var/lib/vm/web.img '/root/my web.img'
cat >/etc/bmapfs/two.conf <<'END'
SRC="'/root/my web.img' db=/root/copy.img"
OPTIONS=--index -q
COMMAND=rsync -a {}/ /backup/two/
END
systemctl start bmapfs@two
cat '/backup/two/my web.img/'* | cmp - /var/lib/vm/web.img
cat /backup/two/db/* | cmp - /root/copy.img
test -e /run/bmapfs/web.json
# The example with a shell.
sed '/^COMMAND=/d; s/^# COMMAND=/COMMAND=/' /etc/bmapfs/example.conf >/etc/bmapfs/dated.conf
grep -q '^COMMAND=sh -c' /etc/bmapfs/dated.conf
systemctl start bmapfs@dated
cat /backup/web/"$(date +%F)"/* | cmp - /var/lib/vm/web.img

# A failure is seen: nothing of what changed was copied.
printf z | dd of=/var/lib/vm/web.img bs=1 seek=9M conv=notrunc status=none
sed 's|^COMMAND=.*|COMMAND=true|' /etc/bmapfs/example.conf >/etc/bmapfs/bad.conf
refuse systemctl start bmapfs@bad
systemctl is-failed bmapfs@bad
tells() { { systemctl status --no-pager --full bmapfs@bad || test $? = 3; } | grep "$1"; }
tells 'status=9'
# The log takes its time.
until tells 'the command skipped 1 of 1 changed blocks'; do sleep 0.05; done
grep '"status":9' /run/bmapfs/bad.json
# So is one of which there are no settings.
refuse systemctl start bmapfs@nothing

# What COMMAND may and may not do. What it could have done it says.
cat >/root/sandbox.sh <<'END'
for place in /usr /etc /boot /sys /proc/sys/kernel; do touch $place/x && echo "wrote to $place"; done
touch /root/written /backup/written /run/written /var/lib/written || echo "cannot write"
unshare --user true && echo "a user namespace"
test "$(nice)" = 10 || echo "not nice"
ionice | grep -q 'best-effort: prio 7' || echo "not nice to disks"
test -z "$(ls -A /tmp)" || echo "saw /tmp"
grep -qx 'NoNewPrivs:.1' /proc/self/status || echo "may get more rights"
cat "$BMAPFS_MOUNT"/* | cmp - /var/lib/vm/web.img || echo "cannot read"
END
touch /tmp/secret
sed 's|^COMMAND=.*|COMMAND=sh -c "sh /root/sandbox.sh >/root/sandbox"|' /etc/bmapfs/example.conf >/etc/bmapfs/sand.conf
systemctl start bmapfs@sand
test -e /root/written
refuse grep . /root/sandbox
rm /run/written /var/lib/written

# It is not started while it runs.
sed 's|^COMMAND=.*|COMMAND=sh -c "echo begun >>/root/begun; cat {}/* >/dev/null; read line </root/go"|' \
    /etc/bmapfs/example.conf >/etc/bmapfs/slow.conf
mkfifo /root/go
systemctl start --no-block bmapfs@slow
until [ -e /root/begun ]; do sleep 0.05; done
pid=$(status_of MainPID bmapfs@slow)
systemctl start --no-block bmapfs@slow
test "$(status_of ActiveState bmapfs@slow)" = activating
test "$(status_of MainPID bmapfs@slow)" = "$pid"
echo go >/root/go
while [ "$(status_of ActiveState bmapfs@slow)" = activating ]; do sleep 0.05; done
test "$(wc -l </root/begun)" = 1

# The timer.
systemctl enable --now bmapfs@web.timer
test "$(status_of ActiveState bmapfs@web.timer)" = active
test "$(status_of Triggers bmapfs@web.timer)" = bmapfs@web.service
test -n "$(status_of NextElapseUSecRealtime bmapfs@web.timer)"
stamp=/var/lib/systemd/timers/stamp-bmapfs@web.timer
test -e $stamp

# Removed: the settings stay. Purged: nothing stays but the indexes, which is said.
quiet remove bmapfs
test -e /etc/bmapfs/web.conf
refuse test -e /usr/bin/bmapfs
test "$(status_of ActiveState bmapfs@web.timer)" != active
quiet purge bmapfs 2>&1 | tee /root/purge
grep -q '/var/lib/bmapfs stays' /root/purge
refuse test -e /run/bmapfs
refuse test -e $stamp
diff /root/before <(files) | grep '^[<>]' | grep -v '^> /backup/' >/root/stays || true
refuse grep -v '^> /var/lib/bmapfs' /root/stays
test -s /root/stays
echo 'all is well'
