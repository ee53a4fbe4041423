/* Keeps values in vector registers, as wide as the processor has them, and looks whether they are still there: as
 * often as its argument says, some milliseconds each time. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REGISTERS = 8, OCTETS = 64 };

static uint8_t put[REGISTERS * OCTETS] __attribute__((aligned(64)));
static uint8_t got[REGISTERS * OCTETS] __attribute__((aligned(64)));

#define KEEP(name, move, kind) \
    static void name(void) \
    { \
        long rounds = 10000000; \
        __asm__ volatile( \
            move " (%1), %%" kind "0\n" move " 64(%1), %%" kind "1\n" move " 128(%1), %%" kind "2\n" \
            move " 192(%1), %%" kind "3\n" move " 256(%1), %%" kind "4\n" move " 320(%1), %%" kind "5\n" \
            move " 384(%1), %%" kind "6\n" move " 448(%1), %%" kind "15\n" \
            "1: dec %0\n jnz 1b\n" \
            move " %%" kind "0, (%2)\n" move " %%" kind "1, 64(%2)\n" move " %%" kind "2, 128(%2)\n" \
            move " %%" kind "3, 192(%2)\n" move " %%" kind "4, 256(%2)\n" move " %%" kind "5, 320(%2)\n" \
            move " %%" kind "6, 384(%2)\n" move " %%" kind "15, 448(%2)\n" \
            : "+r"(rounds) \
            : "r"(put), "r"(got) \
            : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm15"); \
    }

KEEP(sse, "movdqa", "xmm")
KEEP(avx, "vmovdqa", "ymm")
KEEP(avx512, "vmovdqa64", "zmm")

int main(int count, char **words)
{
    void (*keep)(void) = __builtin_cpu_supports("avx512f") ? avx512 : __builtin_cpu_supports("avx") ? avx : sse;
    int width = keep == avx512 ? 64 : keep == avx ? 32 : 16;
    int times = count > 1 ? atoi(words[1]) : 1;

    for (int at = 0; at < REGISTERS * OCTETS; at++)
        put[at] = at * 7 + 1;
    for (int time = 0; time < times; time++) {
        memset(got, 0, sizeof got);
        keep();
        for (int number = 0; number < REGISTERS; number++) {
            if (memcmp(put + number * OCTETS, got + number * OCTETS, width) != 0) {
                printf("register %d is another one, time %d\n", number, time);
                return 1;
            }
        }
    }
    puts("sound");
    return 0;
}
