//! The programs.

use super::Moves::{Alone, Group, Threads};
use super::Program;
use super::Run::{Driver, Exec};
use super::Tried::{InSoak, OnMachines, OnNamespaces};

/// Octets that compress as programs do.
const LIBRARIES: &str =
    "cat /usr/lib/x86_64-linux-gnu/*.so* /usr/bin/* 2>/dev/null | head -c $SIZE > ../data";
/// A line for each of some rounds of work.
const LINES: &str = "seq $((SIZE / 40000)) > ../data";
/// What the scripts that drive several programs read to the end.
const NOTHING: &str = "";

/// All.
pub const PROGRAMS: &[Program] = &[
    Program {
        name: "gzip",
        packages: &[],
        prepare: LIBRARIES,
        run: Exec("gzip -9 -n -c"),
        moves: Alone,
        tried: OnMachines,
    },
    Program {
        name: "awk",
        packages: &[],
        prepare: "seq $((SIZE / 7)) > ../data",
        run: Exec("awk '{ s += $1 * $1 % 7 } END { print s, NR; exit 3 }'"),
        moves: Alone,
        tried: OnMachines,
    },
    Program {
        name: "tar",
        packages: &[],
        prepare: "mkdir files; for n in $(seq $((SIZE / 40000 + 5))); do seq 5000 > files/$n; done
            ln files/1 files/link; ln -s 2 files/symlink; chmod 600 files/3
            tar -cf ../data files; rm -r files",
        run: Exec("tar -xpf -"),
        moves: Alone,
        tried: OnMachines,
    },
    Program {
        name: "sh with pipelines and job control on a terminal",
        packages: &[],
        prepare: "seq $((SIZE / 400000 + 5)) > ../data; echo end >> ../data",
        run: Driver("script -qec 'bash $PROGRAMS/jobs.sh' /dev/null"),
        moves: Alone,
        tried: OnMachines,
    },
    Program {
        name: "xz -T2",
        packages: &["xz-utils"],
        prepare: LIBRARIES,
        run: Exec("xz -T2 -1 --block-size=256KiB -c"),
        moves: Threads,
        tried: OnMachines,
    },
    Program {
        name: "bc",
        packages: &["bc"],
        prepare: "seq -f 'scale = %.0f; 4 * a(1)' $((SIZE / 100000)) > ../data",
        run: Exec("bc -l"),
        moves: Alone,
        tried: OnMachines,
    },
    Program {
        name: "sqlite3",
        packages: &["sqlite3"],
        prepare: "{ echo 'create table t(a primary key, b); begin;'
            seq $((SIZE / 200)) | sed 's/.*/insert into t values (&, hex(& * 7));/'
            echo 'commit; create index i on t(b); select count(*), sum(a), max(b) from t;'
            seq -f 'update t set b = b || a where a = %.0f;' 20; } > ../data",
        run: Exec("sqlite3 -batch file.db"),
        moves: Alone,
        tried: OnMachines,
    },
    Program {
        name: "openssl dgst",
        packages: &["openssl"],
        prepare: LIBRARIES,
        run: Exec("openssl dgst -sha512"),
        moves: Alone,
        tried: OnNamespaces,
    },
    Program {
        // Its figures are those of the day, and infinite where it has not had a tick of time; SIGALRM ends its round.
        name: "openssl speed",
        packages: &["openssl"],
        prepare: NOTHING,
        run: Driver(
            "openssl speed -seconds 9999 -bytes 1024 sha256 > said 2>&1 & pid=$!
             sh $PROGRAMS/ready.sh grep -q Doing said; echo $pid > ../pid
             cat; kill -ALRM $pid; wait $pid; status=$?
             sed -e 's/inf/N/' -e 's/[0-9.]\\+/N/g' -e 's/  *//g' said; rm said; exit $status",
        ),
        moves: Alone,
        tried: OnNamespaces,
    },
    Program {
        name: "flac",
        packages: &["flac"],
        prepare: LIBRARIES,
        run: Exec(
            "flac --silent --force-raw-format --endian=little --sign=signed --channels=2 --bps=16 --sample-rate=44100 -o sound.flac -",
        ),
        moves: Alone,
        tried: OnNamespaces,
    },
    Program {
        name: "lame",
        packages: &["lame"],
        prepare: LIBRARIES,
        run: Exec("lame --quiet -r -s 44.1 - sound.mp3"),
        moves: Alone,
        tried: OnNamespaces,
    },
    Program {
        name: "python3 with threads",
        packages: &["python3"],
        prepare: LINES,
        run: Exec("python3 $PROGRAMS/threads.py"),
        moves: Threads,
        tried: OnMachines,
    },
    Program {
        name: "python3 multiprocessing",
        packages: &["python3"],
        prepare: LINES,
        run: Exec("python3 $PROGRAMS/processes.py"),
        moves: Group,
        tried: OnNamespaces,
    },
    Program {
        name: "python3 asyncio",
        packages: &["python3"],
        prepare: "seq $((SIZE / 200000)) > ../data",
        run: Exec("python3 $PROGRAMS/tasks.py"),
        moves: Alone,
        tried: OnNamespaces,
    },
    Program {
        name: "rsync over a socket",
        packages: &["rsync", "python3"],
        prepare: "seq $((SIZE / 100000)) > ../data; mkdir from
            for n in $(seq 20); do seq -f \"$n %.0f\" $((SIZE / 160)) > from/$n; done",
        run: Driver("sh $PROGRAMS/rsync.sh"),
        moves: Alone,
        tried: OnNamespaces,
    },
    Program {
        name: "nginx that serves",
        packages: &["nginx-light", "python3"],
        prepare: "head -c 300000 /usr/bin/perl > page",
        run: Driver("sh $PROGRAMS/nginx.sh"),
        moves: Group,
        tried: InSoak,
    },
    Program {
        name: "Redis under load",
        packages: &["redis-server", "redis-tools"],
        prepare: NOTHING,
        run: Driver("sh $PROGRAMS/redis.sh"),
        moves: Threads,
        tried: InSoak,
    },
    Program {
        name: "perl with Parallel::ForkManager",
        packages: &["libparallel-forkmanager-perl"],
        prepare: LINES,
        run: Exec("perl $PROGRAMS/children.pl"),
        moves: Alone,
        tried: OnNamespaces,
    },
    Program {
        // Its output is taken in portions.
        name: "gcc",
        packages: &["gcc", "libc6-dev"],
        prepare: "seq $((SIZE / 40000 + 300)) | sed 's/.*/int f&(int a, int b) { int s = 0; for (int i = 0; i < a; i++) s += i * b ^ &; return s; }/' > file.c
            seq 12 > ../data",
        run: Driver(
            "exec 6<&0
             { gcc -O2 -S -o - file.c & gcc=$!
               compiler() { cc1=$(tr -d ' ' < /proc/$gcc/task/$gcc/children) && grep -q cc1 /proc/$cc1/comm; }
               until compiler; do :; done 2> /dev/null
               echo $gcc $cc1 > ../pid; wait $gcc; echo $? > ended; } | sh $PROGRAMS/portions.sh",
        ),
        moves: Alone,
        tried: InSoak,
    },
    Program {
        name: "make -j4",
        packages: &["make", "gcc", "libc6-dev"],
        prepare: "sh $PROGRAMS/project.sh; echo all > ../data",
        run: Driver("exec 6<&0; echo $$ > ../pid; exec make -s -j4"),
        moves: Alone,
        tried: InSoak,
    },
    Program {
        name: "povray +WT4",
        packages: &["povray"],
        prepare: "cp $PROGRAMS/spheres.pov .; seq 12 > ../data",
        run: Driver(
            "exec 6<&0
             { povray +Ispheres.pov +O- +FB +W320 +H240 +WT4 -D -GA 2> /dev/null & pid=$!
               echo $pid > ../pid; wait $pid; echo $? > ended; } | sh $PROGRAMS/portions.sh",
        ),
        moves: Threads,
        tried: InSoak,
    },
    Program {
        name: "ffmpeg -threads 4",
        packages: &["ffmpeg"],
        prepare: "cat /usr/bin/* 2> /dev/null | head -c $((SIZE / 115200 * 115200)) > ../data",
        run: Exec(
            "ffmpeg -nostdin -loglevel error -f rawvideo -pix_fmt yuv420p -s 320x240 -i pipe:0 -threads 4 -c:v mpeg4 -flags +bitexact -fflags +bitexact film.avi",
        ),
        moves: Threads,
        tried: InSoak,
    },
    Program {
        name: "Node.js",
        packages: &["nodejs"],
        prepare: LINES,
        run: Exec("node $PROGRAMS/rounds.js"),
        moves: Threads,
        tried: InSoak,
    },
    Program {
        name: "OpenJDK",
        packages: &["openjdk-17-jdk-headless"],
        prepare: "javac -d . $PROGRAMS/Rounds.java; seq $((SIZE / 40000)) > ../data",
        run: Exec("java -Xmx256m -XX:+UseParallelGC -cp . Rounds"),
        moves: Threads,
        tried: InSoak,
    },
    Program {
        // Over NFS it complains of rights that it has, moved or not.
        name: "Open MPI",
        packages: &["openmpi-bin", "libopenmpi-dev", "gcc", "libc6-dev"],
        prepare: "mpicc -O2 -o ranks $PROGRAMS/ranks.c; seq $((SIZE / 40000)) > ../data",
        run: Driver(
            "exec 6<&0
             mpirun --oversubscribe -n 2 ./ranks <&6 2> /dev/null & pid=$!
             sh $PROGRAMS/ready.sh test -e up; echo $pid > ../pid; wait $pid",
        ),
        moves: Group,
        tried: InSoak,
    },
    Program {
        name: "Apache (event) that serves",
        packages: &["apache2-bin", "python3"],
        prepare: "head -c 300000 /usr/bin/perl > page",
        run: Driver("sh $PROGRAMS/apache.sh event"),
        moves: Group,
        tried: InSoak,
    },
    Program {
        name: "Apache (prefork) that serves",
        packages: &["apache2-bin", "python3"],
        prepare: "head -c 300000 /usr/bin/perl > page",
        run: Driver("sh $PROGRAMS/apache.sh prefork"),
        moves: Group,
        tried: InSoak,
    },
    Program {
        name: "PostgreSQL under load",
        packages: &["postgresql-15"],
        prepare: NOTHING,
        run: Driver("sh $PROGRAMS/postgresql.sh"),
        moves: Group,
        tried: InSoak,
    },
    Program {
        name: "MariaDB under load",
        packages: &["mariadb-server"],
        prepare: NOTHING,
        run: Driver("bash $PROGRAMS/mariadb.sh"),
        moves: Threads,
        tried: InSoak,
    },
];
