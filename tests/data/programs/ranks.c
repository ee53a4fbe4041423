/* MPI: rank 0 says when all are up and reads the lines, all compute a part of each line's sum, and rank 0 adds it up. */
#include <mpi.h>
#include <stdio.h>

int main(int count, char **words) {
    int rank, ranks;
    MPI_Init(&count, &words);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0) fclose(fopen("up", "w"));
    for (;;) {
        unsigned long number = 0, part = 0, sum = 0;
        if (rank == 0 && scanf("%lu", &number) != 1) number = 0;
        MPI_Bcast(&number, 1, MPI_UNSIGNED_LONG, 0, MPI_COMM_WORLD);
        if (number == 0) break;
        for (unsigned long at = rank; at < 200000; at += ranks) part = part * 31 + (at ^ number);
        MPI_Reduce(&part, &sum, 1, MPI_UNSIGNED_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
        if (rank == 0) printf("%lu %lu\n", number, sum);
    }
    MPI_Finalize();
    return 0;
}
