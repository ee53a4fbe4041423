//! What the third argument of ioctl(2) is, by request.
//!
//! The size that a request's number gives is no guide: TCGETS has none, FS_IOC_GETFLAGS says `long` and means
//! `int`, TIOCSIG says `int *` and means `int`. So a request that is not here makes the process go home:
//! all those whose structures hold pointers (SIOCGIFCONF, SG_IO) or as much as they themselves say (FIEMAP).

use super::Arg::{Fd, In, InOut, Out, Value};
use super::Got::All;
use super::Len::Const;
use super::commands::Refined;
use super::{Arg, Class};

/// `int`, `unsigned int`, `pid_t`: most of them.
const GET: Arg = Out(Const(4), All);
const SET: Arg = In(Const(4));
/// `long`, `loff_t`, `u64`.
const GET_LONG: Arg = Out(Const(8), All);
/// `struct termios`, the kernel's.
const TERMIOS: u32 = 36;
const TERMIOS2: u32 = 44;
const TERMIO: u32 = 18;
/// Requests that fill in a `struct ifreq`, which also says which interface is meant.
const IFREQ: Arg = InOut(Const(40));

/// Makes the function from a request to what it refines ioctl to, and, for the tests, the table.
macro_rules! requests {
    ($($request:literal $name:ident $arg:expr;)*) => {
        /// What a request's argument is.
        pub(super) fn request(request: u32) -> Refined {
            match request {
                $($request => Refined::To(Class::Home, &[Fd, Value, $arg]),)*
                _ => Refined::Unknown,
            }
        }

        #[cfg(test)]
        pub(super) const REQUESTS: &[(&str, u32, Arg)] = &[$((stringify!($name), $request, $arg)),*];
    };
}

requests! {
    // Terminals.
    0x5401      TCGETS              Out(Const(TERMIOS), All);
    0x5402      TCSETS              In(Const(TERMIOS));
    0x5403      TCSETSW             In(Const(TERMIOS));
    0x5404      TCSETSF             In(Const(TERMIOS));
    0x5405      TCGETA              InOut(Const(TERMIO));
    0x5406      TCSETA              In(Const(TERMIO));
    0x5407      TCSETAW             In(Const(TERMIO));
    0x5408      TCSETAF             In(Const(TERMIO));
    0x5409      TCSBRK              Value;
    0x540a      TCXONC              Value;
    0x540b      TCFLSH              Value;
    0x540c      TIOCEXCL            Value;
    0x540d      TIOCNXCL            Value;
    0x540e      TIOCSCTTY           Value;
    0x540f      TIOCGPGRP           GET;
    0x5410      TIOCSPGRP           SET;
    0x5411      TIOCOUTQ            GET;
    0x5412      TIOCSTI             In(Const(1));
    0x5413      TIOCGWINSZ          Out(Const(8), All);
    0x5414      TIOCSWINSZ          In(Const(8));
    0x5415      TIOCMGET            GET;
    0x5416      TIOCMBIS            SET;
    0x5417      TIOCMBIC            SET;
    0x5418      TIOCMSET            SET;
    0x5419      TIOCGSOFTCAR        GET;
    0x541a      TIOCSSOFTCAR        SET;
    0x541b      FIONREAD            GET;
    0x541d      TIOCCONS            Value;
    0x541e      TIOCGSERIAL         Out(Const(72), All);
    0x541f      TIOCSSERIAL         In(Const(72));
    0x5420      TIOCPKT             SET;
    0x5421      FIONBIO             SET;
    0x5422      TIOCNOTTY           Value;
    0x5423      TIOCSETD            SET;
    0x5424      TIOCGETD            GET;
    0x5425      TCSBRKP             Value;
    0x5427      TIOCSBRK            Value;
    0x5428      TIOCCBRK            Value;
    0x5429      TIOCGSID            GET;
    0x802c_542a TCGETS2             Out(Const(TERMIOS2), All);
    0x402c_542b TCSETS2             In(Const(TERMIOS2));
    0x402c_542c TCSETSW2            In(Const(TERMIOS2));
    0x402c_542d TCSETSF2            In(Const(TERMIOS2));
    0x542e      TIOCGRS485          Out(Const(32), All);
    0x542f      TIOCSRS485          InOut(Const(32));
    0x8004_5430 TIOCGPTN            GET;
    0x4004_5431 TIOCSPTLCK          SET;
    0x8004_5432 TIOCGDEV            GET;
    0x4004_5436 TIOCSIG             Value;
    0x5437      TIOCVHANGUP         Value;
    0x8004_5438 TIOCGPKT            GET;
    0x8004_5439 TIOCGPTLCK          GET;
    0x8004_5440 TIOCGEXCL           GET;
    0x5441      TIOCGPTPEER         Value;
    0x5456      TIOCGLCKTRMIOS      Out(Const(TERMIOS), All);
    0x5457      TIOCSLCKTRMIOS      In(Const(TERMIOS));
    0x5459      TIOCSERGETLSR       GET;
    0x545c      TIOCMIWAIT          Value;
    0x545d      TIOCGICOUNT         Out(Const(80), All);

    // The console.
    0x4b2f      KIOCSOUND           Value;
    0x4b30      KDMKTONE            Value;
    0x4b31      KDGETLED            Out(Const(1), All);
    0x4b32      KDSETLED            Value;
    0x4b33      KDGKBTYPE           Out(Const(1), All);
    0x4b3a      KDSETMODE           Value;
    0x4b3b      KDGETMODE           GET;
    0x4b44      KDGKBMODE           GET;
    0x4b45      KDSKBMODE           Value;
    0x4b62      KDGKBMETA           GET;
    0x4b63      KDSKBMETA           Value;
    0x4b64      KDGKBLED            Out(Const(1), All);
    0x4b65      KDSKBLED            Value;
    0x5600      VT_OPENQRY          GET;
    0x5601      VT_GETMODE          Out(Const(8), All);
    0x5602      VT_SETMODE          In(Const(8));
    0x5603      VT_GETSTATE         Out(Const(6), All);
    0x5605      VT_RELDISP          Value;
    0x5606      VT_ACTIVATE         Value;
    0x5607      VT_WAITACTIVE       Value;
    0x5608      VT_DISALLOCATE      Value;

    // Every descriptor.
    0x5450      FIONCLEX            Value;
    0x5451      FIOCLEX             Value;
    0x5452      FIOASYNC            SET;
    0x5460      FIOQSIZE            GET_LONG;

    // Files and file systems.
    0x0001      FIBMAP              InOut(Const(4));
    0x0002      FIGETBSZ            GET;
    0xc004_5877 FIFREEZE            Value;
    0xc004_5878 FITHAW              Value;
    0xc018_5879 FITRIM              InOut(Const(24));
    0x4004_9409 FICLONE             Fd;
    0x4020_940d FICLONERANGE        In(Const(32));
    0x8008_6601 FS_IOC_GETFLAGS     GET;
    0x4008_6602 FS_IOC_SETFLAGS     SET;
    0x8008_7601 FS_IOC_GETVERSION   GET;
    0x4008_7602 FS_IOC_SETVERSION   SET;
    0x801c_581f FS_IOC_FSGETXATTR   Out(Const(28), All);
    0x401c_5820 FS_IOC_FSSETXATTR   In(Const(28));
    0x8100_9431 FS_IOC_GETFSLABEL   InOut(Const(256));
    0x4100_9432 FS_IOC_SETFSLABEL   In(Const(256));
    0x8011_1500 FS_IOC_GETFSUUID    Out(Const(17), All);
    0x8081_1501 FS_IOC_GETFSSYSFSPATH Out(Const(129), All);
    0x8004_7210 FAT_IOCTL_GET_ATTRIBUTES GET;
    0x4004_7211 FAT_IOCTL_SET_ATTRIBUTES SET;
    0x8004_7213 FAT_IOCTL_GET_VOLUME_ID GET;
    0x8004_e500 FUSE_DEV_IOC_CLONE  SET;

    // Block devices.
    0x0301      HDIO_GETGEO         Out(Const(16), All);
    0x125d      BLKROSET            SET;
    0x125e      BLKROGET            GET;
    0x125f      BLKRRPART           Value;
    0x1260      BLKGETSIZE          GET_LONG;
    0x1261      BLKFLSBUF           Value;
    0x1262      BLKRASET            Value;
    0x1263      BLKRAGET            GET_LONG;
    0x1264      BLKFRASET           Value;
    0x1265      BLKFRAGET           GET_LONG;
    0x1267      BLKSECTGET          Out(Const(2), All);
    0x1268      BLKSSZGET           GET;
    0x8008_1270 BLKBSZGET           GET;
    0x4008_1271 BLKBSZSET           SET;
    0x8008_1272 BLKGETSIZE64        GET_LONG;
    0x1277      BLKDISCARD          In(Const(16));
    0x1278      BLKIOMIN            GET;
    0x1279      BLKIOOPT            GET;
    0x127a      BLKALIGNOFF         GET;
    0x127b      BLKPBSZGET          GET;
    0x127c      BLKDISCARDZEROES    GET;
    0x127d      BLKSECDISCARD       In(Const(16));
    0x127e      BLKROTATIONAL       Out(Const(2), All);
    0x127f      BLKZEROOUT          In(Const(16));
    0x8008_1280 BLKGETDISKSEQ       GET_LONG;
    0x8004_1284 BLKGETZONESZ        GET;
    0x8004_1285 BLKGETNRZONES       GET;

    // Sockets.
    0x8901      FIOSETOWN           SET;
    0x8902      SIOCSPGRP           SET;
    0x8903      FIOGETOWN           GET;
    0x8904      SIOCGPGRP           GET;
    0x8905      SIOCATMARK          GET;
    0x8906      SIOCGSTAMP_OLD      Out(Const(16), All);
    0x8907      SIOCGSTAMPNS_OLD    Out(Const(16), All);
    0x8010_8906 SIOCGSTAMP_NEW      Out(Const(16), All);
    0x8010_8907 SIOCGSTAMPNS_NEW    Out(Const(16), All);
    0x894b      SIOCOUTQNSD         GET;
    0x07b9      IOCTL_VM_SOCKETS_GET_LOCAL_CID GET;

    // Network interfaces.
    0x8910      SIOCGIFNAME         IFREQ;
    0x8913      SIOCGIFFLAGS        IFREQ;
    0x8914      SIOCSIFFLAGS        IFREQ;
    0x8915      SIOCGIFADDR         IFREQ;
    0x8916      SIOCSIFADDR         IFREQ;
    0x8917      SIOCGIFDSTADDR      IFREQ;
    0x8918      SIOCSIFDSTADDR      IFREQ;
    0x8919      SIOCGIFBRDADDR      IFREQ;
    0x891a      SIOCSIFBRDADDR      IFREQ;
    0x891b      SIOCGIFNETMASK      IFREQ;
    0x891c      SIOCSIFNETMASK      IFREQ;
    0x891d      SIOCGIFMETRIC       IFREQ;
    0x891e      SIOCSIFMETRIC       IFREQ;
    0x8921      SIOCGIFMTU          IFREQ;
    0x8922      SIOCSIFMTU          IFREQ;
    0x8923      SIOCSIFNAME         IFREQ;
    0x8924      SIOCSIFHWADDR       IFREQ;
    0x8927      SIOCGIFHWADDR       IFREQ;
    0x8931      SIOCADDMULTI        IFREQ;
    0x8932      SIOCDELMULTI        IFREQ;
    0x8933      SIOCGIFINDEX        IFREQ;
    0x8934      SIOCSIFPFLAGS       IFREQ;
    0x8935      SIOCGIFPFLAGS       IFREQ;
    0x8936      SIOCDIFADDR         IFREQ;
    0x8942      SIOCGIFTXQLEN       IFREQ;
    0x8943      SIOCSIFTXQLEN       IFREQ;
    0x8947      SIOCGMIIPHY         IFREQ;
    0x8948      SIOCGMIIREG         IFREQ;
    0x8970      SIOCGIFMAP          IFREQ;
    0x8953      SIOCDARP            InOut(Const(68));
    0x8954      SIOCGARP            InOut(Const(68));
    0x8955      SIOCSARP            InOut(Const(68));
    0x4004_54ca TUNSETIFF           IFREQ;
    0x4004_54cb TUNSETPERSIST       Value;
    0x4004_54cc TUNSETOWNER         Value;
    0x4004_54cd TUNSETLINK          Value;
    0x4004_54ce TUNSETGROUP         Value;
    0x8004_54cf TUNGETFEATURES      GET;
    0x8004_54d2 TUNGETIFF           IFREQ;

    // Other descriptors: the random device, namespaces, timerfd, inotify, epoll.
    0x8004_5200 RNDGETENTCNT        GET;
    0x4004_5201 RNDADDTOENTCNT      SET;
    0x5204      RNDZAPENTCNT        Value;
    0x5206      RNDCLEARPOOL        Value;
    0x5207      RNDRESEEDCRNG       Value;
    0xb701      NS_GET_USERNS       Value;
    0xb702      NS_GET_PARENT       Value;
    0xb703      NS_GET_NSTYPE       Value;
    0xb704      NS_GET_OWNER_UID    GET;
    0x4008_5400 TFD_IOC_SET_TICKS   In(Const(8));
    0x4004_4900 INOTIFY_IOC_SETNEXTWD Value;
    0x4008_8a01 EPIOCSPARAMS        In(Const(8));
    0x8008_8a02 EPIOCGPARAMS        Out(Const(8), All);
}
