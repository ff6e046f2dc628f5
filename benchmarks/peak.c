// Multiply-adds/s of one thread on registers alone: what no convolution can exceed. On an x86 with avx512_bf16:
//
//     gcc -O2 -march=native -o /dev/shm/peak benchmarks/peak.c && /dev/shm/peak

#include <immintrin.h>
#include <stdio.h>
#include <time.h>

enum { CHAINS = 12, STEPS = 50000000 };  // as many independent sums as hide an instruction's latency

int main(void) {
    __m512 sums[CHAINS];
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) sums[i] = _mm512_set1_ps((float)i);  // else the compiler takes equal ones for one
    __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (long step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) sums[i] = _mm512_dpbf16_ps(sums[i], ones, ones);
        asm volatile("" ::"v"(sums[0]));  // so that the loop stays
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    float total = 0;
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) total += _mm512_reduce_add_ps(sums[i]);
    double seconds = (end.tv_sec - start.tv_sec) + 1e-9 * (end.tv_nsec - start.tv_nsec);
    printf("bf16: %.1f billion multiply-adds/s (sum %g)\n", 32e-9 * CHAINS * STEPS / seconds, total);
}
