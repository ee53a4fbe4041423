# On a node, from the directory with the packages: installs them, runs the master as their service, for one machine
# behind a veth pair, installs them again over it, purges the master's, and prints what it sees. The state is on a tmpfs,
# since over the node's own NFS root the service's capabilities count for nothing.
set -eu
export DEBIAN_FRONTEND=noninteractive
said() { "$@" > said 2>&1 || { cat said >&2; exit 1; }; grep '^tesela:' said || :; }
mkdir -p /var/lib/tesela
mount -t tmpfs -o size=100m state /var/lib/tesela
said dpkg --install tesela*.deb
systemctl is-enabled tesela || :
ip netns add machine
ip link add name inner type veth peer name outer netns machine
ip addr add 10.99.0.1/24 dev inner
ip link set inner up
ip -n machine link set outer address 02:00:00:00:00:01
ip -n machine addr add 10.99.0.11/24 dev outer
ip -n machine link set outer up

tree=/root/tree
mkdir -p $tree/boot $tree/etc $tree/root $tree/usr/lib/modules/6.1 /etc/tesela
ln -s usr/lib $tree/lib
echo kernel > $tree/boot/vmlinuz-6.1
: > $tree/usr/lib/modules/6.1/modules.dep
printf 'k/%s.ko\n' nfs nfsv3 loop squashfs overlay > $tree/usr/lib/modules/6.1/modules.builtin
(umask 077 && echo private > $tree/root/letter)
chmod 700 $tree/root
cat > /etc/tesela/cluster.yaml <<'YAML'
cluster: inner
master: {interface: inner, address: 10.99.0.1/24}
images: {base: {from: "dir:/root/tree"}}
profiles: {node: {image: base}}
nodes:
  m1: {mac: 02:00:00:00:00:01, address: 10.99.0.11, profile: node}
YAML

# The administrator builds before the service ever ran, and again while it runs.
tesela image build 2>/dev/null >&2
systemctl start tesela
systemctl is-active tesela
tesela image build --refresh 2>/dev/null >&2
stat -c '%A %U' /var/lib/tesela /var/lib/tesela/images/base/current/root /run/tesela/tesela.sock
tesela node list | grep -c '^m1 '
runuser -u demo -- tesela node list 2>/dev/null || echo "not for demo"
# The master is a member itself, which Wants= has started behind it.
systemctl start tesela-member
stat -c '%A %U' /run/tesela/member /run/tesela/agent
showmap --socket /run/tesela/agent/agent.sock | sed -n '1p;$p'
grep -c '"m1"' /run/tesela/member/peers.json

ip netns exec machine sh -eu <<'MACHINE'
mount -i -t nfs -o vers=3,nolock,proto=tcp,port=2049,mountproto=tcp,mountport=2049,addr=10.99.0.1 10.99.0.1:/nodes/m1 /mnt
cd /mnt
cat root/letter
echo new > etc/new
chown 1234 etc/new
chmod 4755 etc/new
stat -c '%A %u' etc/new
systemctl restart tesela
kill -KILL "$(systemctl show --value -p MainPID tesela)"
echo written >> root/letter
sync root/letter
cat root/letter
cd /
umount /mnt
MACHINE
until systemctl -q is-active tesela; do sleep 0.1; done
systemctl show -p NRestarts tesela

sed -i 's/^nodes:/nodes:\n  m2: {mac: 02:00:00:00:00:02, address: 10.99.0.12, profile: node}/' /etc/tesela/cluster.yaml
systemctl reload tesela
tesela node list | grep -c '^m[12] '
grep -c '"m[12]"' /run/tesela/member/peers.json
echo '  m3: {profile: none}' >> /etc/tesela/cluster.yaml
systemctl reload tesela 2>/dev/null || echo "not reloaded"
tesela node list | grep -c '^m[12] '
before=$(systemctl show --value -p MainPID tesela)
said dpkg --install tesela_*.deb
systemctl is-active tesela
test "$before" -ne "$(systemctl show --value -p MainPID tesela)" && echo "started again"
tesela node list | grep -c '^m[12] '
systemctl stop tesela tesela-member
systemctl show -p Result tesela
# The agent's, in the same directory.
stat -c '%A %U' /run/tesela/node.key
said dpkg --purge tesela
systemctl show -p LoadState tesela
ls -d /var/lib/tesela/keys /usr/bin/tesela 2>/dev/null || :
