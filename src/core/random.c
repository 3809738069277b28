/* random.c - Philox4x32-10 and what is drawn from it. */
#include "core/random.h"

#include <math.h>

void plx_philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4])
{
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ key0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ key1;
        c3 = (uint32_t)p0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void plx_random_init(plx_random *random, uint64_t seed, uint64_t stream)
{
    *random = (plx_random){.seed = seed, .stream = stream};
}

uint32_t plx_random_u32(plx_random *random)
{
    if (random->left == 0) {
        plx_philox(random->seed, random->stream, random->counter++, random->block);
        random->left = 4;
    }
    return random->block[4 - random->left--];
}

uint64_t plx_random_u64(plx_random *random)
{
    uint64_t low = plx_random_u32(random);
    return low | (uint64_t)plx_random_u32(random) << 32;
}

double plx_random_uniform(plx_random *random) { return (double)(plx_random_u64(random) >> 11) * 0x1p-53; }

double plx_random_normal(plx_random *random)
{
    double radius = sqrt(-2.0 * log(1.0 - plx_random_uniform(random))); /* of (0, 1]: the logarithm is finite */
    return radius * cos(6.283185307179586 * plx_random_uniform(random));
}

uint64_t plx_random_below(plx_random *random, uint64_t n)
{
    uint64_t surplus = -n % n; /* 2^64 mod n: so many of the lowest numbers would be drawn once too often */
    uint64_t x;
    do x = plx_random_u64(random);
    while (x < surplus);
    return x % n;
}

void plx_random_shuffle(plx_random *random, int32_t *values, size_t count)
{
    for (size_t i = count; i > 1; i--) {
        size_t j = (size_t)plx_random_below(random, i);
        int32_t kept = values[i - 1];
        values[i - 1] = values[j];
        values[j] = kept;
    }
}

uint64_t plx_random_permute(uint64_t seed, uint64_t stream, uint64_t n, uint64_t index)
{
    if (n <= 1) return 0;
    int half = 1; /* bits of each half: the rounds permute 0 .. 4^half - 1, fewer than 4 n numbers */
    while (half < 32 && (n - 1) >> (2 * half) != 0) half++;
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    do { /* walk the cycle until it comes back below n */
        uint64_t left = index >> half, right = index & mask;
        for (uint64_t round = 0; round < 6; round++) {
            uint32_t word[4];
            plx_philox(seed, stream, round << 32 | right, word);
            uint64_t mixed = left ^ (word[0] & mask);
            left = right;
            right = mixed;
        }
        index = left << half | right;
    } while (index >= n);
    return index;
}

uint64_t plx_hash(const char *text)
{
    uint64_t hash = PLX_HASH_START;
    for (const unsigned char *c = (const unsigned char *)text; *c != 0; c++) hash = plx_hash_add(hash, *c);
    return hash;
}
