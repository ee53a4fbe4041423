/* Fills memory, and for each line has a child, which runs in it, look at all of it once there is another octet to read. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 64 << 8 };

int main(void) {
    char *memory = malloc((size_t) PAGE * PAGES);
    char line[2];
    for (size_t page = 0; page < PAGES; page++)
        for (size_t at = 0; at < PAGE; at += 8)
            *(unsigned long *) &memory[page * PAGE + at] = (page * PAGE + at + 1) * 0x9e3779b97f4a7c15;
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        int status;
        pid_t child = vfork();
        if (child == 0) {
            if (write(1, "child\n", 6) != 6 || read(0, line, 1) != 1)
                _exit(2);
            for (size_t at = 0; at < (size_t) PAGE * PAGES; at += 8)
                if (*(unsigned long *) &memory[at] != (at + 1) * 0x9e3779b97f4a7c15)
                    _exit(1);
            _exit(7);
        }
        if (child < 0 || waitpid(child, &status, 0) != child)
            return 1;
        printf(WIFEXITED(status) ? "exit status %d\n" : "signal %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
        fflush(stdout);
    }
    return 0;
}
