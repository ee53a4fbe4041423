# Writes a C project: $FILES files (24 unless said) of $FUNCTIONS functions each (30), a header, and a Makefile which waits for the
# end of descriptor 6.
FILES=${FILES:-24} FUNCTIONS=${FUNCTIONS:-30}
for file in $(seq $FILES); do
    {
        echo '#include "all.h"'
        for f in $(seq $FUNCTIONS); do
            echo "int f${file}_$f(int a, int b) { int s = $f; for (int i = 0; i < a; i++) s += i * b ^ (s >> $((f % 7 + 1))); return s; }"
        done
        echo "int file$file(int a) { return $(seq -f "f${file}_%.0f(a, $file)" -s ' ^ ' $FUNCTIONS); }"
    } > file$file.c
done
seq -f 'int file%.0f(int a);' $FILES > all.h
{
    printf '#include "all.h"\n#include <stdio.h>\nint main(void) { printf("%%d\\n", '
    seq -f 'file%.0f(9)' -s ' + ' $FILES | tr -d '\n'
    echo '); return 0; }'
} > main.c
cat > Makefile <<'M'
objects := $(patsubst %.c,%.o,$(wildcard file*.c)) main.o
result: program
	./program > $@
program: $(objects) waited
	gcc -o $@ $(sort $(objects))
%.o: %.c all.h
	@gcc -O2 -c -o $@ $<
waited: main.o
	cat <&6 > $@
M
