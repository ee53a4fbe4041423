#!/bin/sh
# The guest of the NFS test: mounts what the kernel command line says and works on it. Every line that
# fails ends the run with its number; the host reads what is printed.
export PATH=/bin
fail() { echo "FAILED: $*"; poweroff -f; }
is() { [ "$1" = "$2" ] || fail "line $3: '$1' is not '$2'"; }
mount -t proc none /proc; mount -t devtmpfs none /dev
for module in /modules/*; do insmod $module 2>/dev/null; done
for word in $(cat /proc/cmdline); do case $word in nfs=*) port=${word#nfs=};; esac; done
ifconfig lo up; ifconfig eth0 10.0.2.15 up; route add default gw 10.0.2.2
mkdir /mnt
mount -t nfs -o "vers=3,nolock,proto=tcp,port=$port,mountport=$port,mountproto=tcp,addr=10.0.2.2" 10.0.2.2:/ /mnt || fail mount
echo "MOUNTED $(grep /mnt /proc/mounts)"
cd /mnt
echo hello > file; is "$(cat file)" hello $LINENO
echo more >> file; is "$(wc -l < file)" 2 $LINENO
ln file hard; is "$(stat -c %h file)" 2 $LINENO
is "$(stat -c %i file)" "$(stat -c %i hard)" $LINENO
ln -s file soft; is "$(readlink soft)" file $LINENO; is "$(cat soft)" "$(cat file)" $LINENO
mkdir -p a/b/c; mv a/b d; [ -d d/c ] || fail $LINENO
mknod null c 1 3; echo x > null; is "$(stat -c %t:%T null)" 1:3 $LINENO
mkfifo fifo; (echo through > fifo &); is "$(cat fifo)" through $LINENO
chmod 4751 file; is "$(stat -c %a file)" 4751 $LINENO
chown 1000:100 file; is "$(stat -c %u:%g file)" 1000:100 $LINENO
touch -d '2001-02-03 04:05:06' file; is "$(stat -c %Y file)" 981173106 $LINENO
dd if=/dev/urandom of=/random bs=64k count=200 2>/dev/null; sum=$(md5sum < /random)
dd if=/random of=big bs=37k conv=fsync 2>/dev/null; is "$(md5sum < big)" "$sum" $LINENO
echo 3 > /proc/sys/vm/drop_caches; is "$(md5sum < big)" "$sum" $LINENO
mv big file; is "$(md5sum < file)" "$sum" $LINENO; is "$(stat -c %h hard)" 1 $LINENO
# A file that is open stays readable when it is removed.
exec 3< file; rm file; is "$(md5sum <&3)" "$sum" $LINENO; exec 3<&-
ls -A | grep -q nfs && fail "$LINENO: $(ls -A)"
truncate -s 5 hard; is "$(stat -c %s hard)" 5 $LINENO; is "$(cat hard)" hello $LINENO
mkdir many; i=0; while [ $i -lt 600 ]; do : > many/a-name-that-is-rather-long-$i; i=$((i+1)); done
echo 3 > /proc/sys/vm/drop_caches
is "$(ls many | wc -l)" 600 $LINENO; is "$(ls -l many | wc -l)" 601 $LINENO
rm -r many; [ -e many ] && fail $LINENO
rmdir d 2>/dev/null && fail $LINENO
# The server goes away and comes back in the middle of this.
cp /random slow; echo RESTART
i=0; while [ $i -lt 300 ]; do mkdir r$i && echo $i > r$i/f && rmdir r$i 2>/dev/null && fail $LINENO
  mv r$i/f r$i/g || fail "$LINENO: $i"; rm r$i/g || fail "$LINENO: $i"; rmdir r$i || fail "$LINENO: $i"; i=$((i+1)); done
echo 3 > /proc/sys/vm/drop_caches; is "$(md5sum < slow)" "$sum" $LINENO
cd /; umount /mnt || fail umount
echo "ALL GOOD"; poweroff -f
