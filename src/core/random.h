/* random.h - random numbers that are a pure function of (seed, stream, counter): Philox4x32-10 (Salmon et
 * al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Nothing needs to be saved to resume a run:
 * the counter says where it is. */
#ifndef PLX_CORE_RANDOM_H
#define PLX_CORE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

typedef struct plx_random {
    uint64_t seed, stream, counter;
    uint32_t block[4]; /* of the last counter used */
    int left;          /* words of the block not used yet */
} plx_random;

/* One block of four words. Usable in kernels: no state. */
void plx_philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]);

void plx_random_init(plx_random *random, uint64_t seed, uint64_t stream);
uint32_t plx_random_u32(plx_random *random);
uint64_t plx_random_u64(plx_random *random);
double plx_random_uniform(plx_random *random);               /* [0, 1), 53 bits */
double plx_random_normal(plx_random *random);                /* mean 0, deviation 1 (Box-Muller) */
uint64_t plx_random_below(plx_random *random, uint64_t n);   /* 0 .. n-1 without bias; n >= 1 */
void plx_random_shuffle(plx_random *random, int32_t *values, size_t count);
/* A permutation of 0 .. n-1 evaluated at one point (Feistel rounds with cycle walking): windows are shuffled
 * by seed without holding their order in memory. */
uint64_t plx_random_permute(uint64_t seed, uint64_t stream, uint64_t n, uint64_t index);
/* 64-bit FNV-1a: of a name, to make a stream of it; or value by value from PLX_HASH_START. Not for hostile values. */
#define PLX_HASH_START 0xCBF29CE484222325u
static inline uint64_t plx_hash_add(uint64_t hash, uint64_t value) { return (hash ^ value) * 0x100000001B3u; }
uint64_t plx_hash(const char *text);

#endif
