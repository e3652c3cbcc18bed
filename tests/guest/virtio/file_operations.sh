#!/bin/sh
# husk: operations on files whose every result is printed; run in a shared folder and in one of the host, they must agree
# Runs under busybox' sh with its applets in the PATH; $1 is an empty directory. Prints nothing that differs between two
# runs on one machine (inode numbers, times).
cd "$1" || exit 1
umask 022
show() { stat -c '%n %F %a %s %h' "$@" 2>&1; }
try() { "$@" 2>/tmp/error; echo "$* -> $?"; sed 's/^/  /' /tmp/error; }

echo "== making"
try mkdir dir
try mkdir dir
try mkdir -p dir/a/b/c
echo hello > dir/file
try ln dir/file dir/hard
try ln -s file dir/soft
try ln -s /nowhere dir/dangling
try mkfifo dir/fifo
try readlink dir/soft
try cat dir/soft
try cat dir/dangling
show dir/file dir/hard dir/soft dir/fifo dir/a
[ "$(stat -c %i dir/file)" = "$(stat -c %i dir/hard)" ] && echo same inode

echo "== renaming"
try mv dir/a dir/z
try mv dir/z dir/b
try ls dir/b/b
echo other > dir/other
try mv dir/other dir/file
try cat dir/file
try cat dir/hard
show dir/hard
mkdir dir/full dir/empty; touch dir/full/x
try mv -T dir/empty dir/full
try mv -T dir/full dir/empty
try ls dir/empty

echo "== gone while open"
echo content > open
exec 3<open
exec 4>>open
rm open
echo more >&4
cat <&3
stat -L -c '%h %s' /proc/self/fd/4
exec 3<&- 4>&-
try cat open

echo "== sizes"
dd if=/dev/zero of=sparse bs=1 count=0 seek=5000000 2>/dev/null
show sparse
echo x > short; truncate -s 10000 short; show short; sha256sum < short
truncate -s 1 short; show short
seq 1 300000 > numbers; sha256sum < numbers; wc -c < numbers
dd if=numbers bs=7 skip=1000 count=3 2>/dev/null | sha256sum
dd if=/dev/zero of=numbers bs=1000 seek=100 count=10 conv=notrunc 2>/dev/null; sha256sum < numbers
echo end >> numbers; tail -n 1 numbers; wc -c < numbers
cp numbers copy; cmp numbers copy && echo equal

echo "== modes and times"
touch mode; chmod 4751 mode; show mode; chmod u-s,o= mode; show mode
touch -d '2001-02-03 04:05:06' mode; stat -c %Y mode
chmod 1777 dir; show dir
chmod 000 dir/b; show dir/b; chmod 755 dir/b

echo "== many"
mkdir many
for i in $(seq 1 1500); do echo $i > many/name-$i; done
ls many | wc -l; cat many/* | sort -n | sha256sum
rm many/name-*5; ls many | wc -l; ls many | sort | sha256sum
try rmdir many
rm -r many; show many
long=$(printf '%0255d' 0); touch $long; ls | grep -c 0000000000; rm $long
try touch ${long}0

echo "== links"
i=0; while [ $i -lt 20 ]; do ln dir/hard dir/link-$i; i=$((i+1)); done; show dir/hard
rm dir/link-*; show dir/hard
try ln dir dir/of-directory
try rm dir
try rmdir dir/file
