/* tile.h - tiles: registers of 16 rows x 64 bytes, and the product of two of them (Intel's AMX-BF16 and AMX-INT8).
 *
 * A file in an amx/ folder is compiled three times: for level "amx" with the instructions; for level "bf16" with tiles in
 * memory and AVX-512's dot products of pairs (but for whole numbers and terms); and as "emulated" against the plain C below,
 * which any processor runs, so that the code around the tiles is tested everywhere. vec.h's vf has 16 lanes in all. Exported
 * names are made by PLX_CPU(name); list rows by PLX_TILES_KERNEL and PLX_TILES_EMULATED.
 *
 * A thread calls plx_tiles_begin or plx_tiles_begin_whole before its first use (in each task: threads come and go) and
 * plx_tiles_end after the last, so that other code does not carry the registers along. Tile numbers are literals 0..7.
 *
 * plx_tiles_begin: all eight tiles have 16 rows of 64 bytes (pad with zeros). A tile of the left operand: row m holds
 * the 32 bf16 numbers a[m][0..31]. A tile of the right operand: row r holds 16 pairs (b[2r][n], b[2r+1][n]),
 * n = 0..15.
 *     plx_tile_dot(t, c, a, b):         c[m][n] += sum over k < 32 of a[m][k] * b[k][n], c in f32
 *
 * plx_tiles_begin_whole, for int8 numbers: tiles 0 to 3 have 16 rows of 64 bytes, sums; 4 and 5, left operands, 16 rows
 * of 32 bytes, row m the numbers a[m][0..31]; 6 and 7, right operands, 8 rows of 64 bytes, row r 16 times four numbers
 * b[4r][n] .. b[4r+3][n].
 *     plx_tile_dot_whole(t, c, a, b):   c[m][n] += sum over k < 32 of a[m][k] * b[k][n], c in int32 */
#ifndef PLX_KERNELS_AMX_TILE_H
#define PLX_KERNELS_AMX_TILE_H

#include "kernels/cpu/vec.h"

#if defined(__AMX_TILE__) || defined(__AMXTILE__) /* gcc, clang */
#include <immintrin.h>

typedef struct plx_tiles {
    char unused;
} plx_tiles;

static inline void plx_tiles_begin_as(bool whole)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = whole && (i == 4 || i == 5) ? 32 : 64;
        config.rows[i] = whole && i > 5 ? 8 : 16;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(config)); /* gcc 12's intrinsic reads only part of the 64 bytes */
}
static inline void plx_tiles_begin(plx_tiles *tiles)
{
    (void)tiles;
    plx_tiles_begin_as(false);
}
static inline void plx_tiles_begin_whole(plx_tiles *tiles)
{
    (void)tiles;
    plx_tiles_begin_as(true);
}
static inline void plx_tiles_end(plx_tiles *tiles)
{
    (void)tiles;
    __asm__ volatile("tilerelease");
}
#define plx_tile_zero(tiles, c) ((void)(tiles), ({ __asm__ volatile("tilezero %%tmm" #c ::); }))
/* stride: bytes from row to row */
#define plx_tile_load(tiles, c, from, stride)                                                                          \
    ((void)(tiles), ({                                                                                                 \
         __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #c ::"r"((const void *)(from)), "r"((size_t)(stride))           \
                          : "memory");                                                                                 \
     }))
#define plx_tile_store(tiles, c, to, stride)                                                                           \
    ((void)(tiles), ({                                                                                                 \
         __asm__ volatile("tilestored %%tmm" #c ", (%0,%1,1)" ::"r"((void *)(to)), "r"((size_t)(stride)) : "memory");  \
     }))
#define plx_tile_dot(tiles, c, a, b)                                                                                   \
    ((void)(tiles), ({ __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::); }))
#define plx_tile_dot_whole(tiles, c, a, b)                                                                             \
    ((void)(tiles), ({ __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::); }))

#elif defined(__AVX512BF16__)

/* No tiles of whole numbers. Operands are read where they lie: a file may change what tiles 4 to 7 were loaded from only
 * after their last product, and loads them from rows of 64 bytes, one behind the other. */
typedef int32_t plx_tile_pair __attribute__((may_alias)); /* operands are written as bf16 numbers or as vectors */
typedef struct plx_tiles {
    float sums[4][16][16] __attribute__((aligned(64)));
    const plx_tile_pair *operand[4];
} plx_tiles;

static inline void plx_tiles_begin(plx_tiles *tiles) { (void)tiles; }
static inline void plx_tiles_end(plx_tiles *tiles) { (void)tiles; }
INLINE void plx_tile_zero(plx_tiles *tiles, int c) { memset(tiles->sums[c], 0, sizeof tiles->sums[c]); }
INLINE void plx_tile_load(plx_tiles *tiles, int c, const void *from, size_t stride)
{
    if (c >= 4) tiles->operand[c - 4] = from;
    else
        for (size_t m = 0; m < 16; m++)
            _mm512_store_ps(tiles->sums[c][m], _mm512_loadu_ps((const char *)from + m * stride));
}
INLINE void plx_tile_store(const plx_tiles *tiles, int c, void *to, size_t stride)
{
    for (size_t m = 0; m < 16; m++) _mm512_storeu_ps((char *)to + m * stride, _mm512_load_ps(tiles->sums[c][m]));
}
/* The sums stay in registers while the right operand's rows pass: an instruction for 16 pairs, which takes its pair of
 * the left operand from memory. A function of its own, as the compiler would keep some tile's sums in registers and so
 * have none left for those that are summed. */
static __attribute__((noinline, unused)) void plx_tile_add(float (*sums)[16], const plx_tile_pair *left,
                                                          const plx_tile_pair *right)
{
    __m512 sum[16];
    UNROLL for (size_t m = 0; m < 16; m++) sum[m] = _mm512_load_ps(sums[m]);
    for (size_t r = 0; r < 16; r++) {
        const __m512bh row = (__m512bh)_mm512_loadu_si512(right + 16 * r);
        UNROLL for (size_t m = 0; m < 16; m++)
            sum[m] = _mm512_dpbf16_ps(sum[m], (__m512bh)_mm512_set1_epi32(left[16 * m + r]), row);
    }
    UNROLL for (size_t m = 0; m < 16; m++) _mm512_store_ps(sums[m], sum[m]);
}
INLINE void plx_tile_dot(plx_tiles *tiles, int c, int a, int b)
{
    plx_tile_add(tiles->sums[c], tiles->operand[a - 4], tiles->operand[b - 4]);
}

#else

typedef struct plx_tiles {
    uint32_t row[8][16][16];
    bool whole;
} plx_tiles;

static inline void plx_tiles_begin(plx_tiles *tiles) { memset(tiles, 0, sizeof *tiles); }
static inline void plx_tiles_begin_whole(plx_tiles *tiles)
{
    memset(tiles, 0, sizeof *tiles);
    tiles->whole = true;
}
static inline size_t plx_tile_rows(const plx_tiles *tiles, int c) { return tiles->whole && c > 5 ? 8 : 16; }
static inline size_t plx_tile_bytes(const plx_tiles *tiles, int c) { return tiles->whole && (c & 6) == 4 ? 32 : 64; }
static inline void plx_tiles_end(plx_tiles *tiles) { (void)tiles; }
static inline void plx_tile_zero(plx_tiles *tiles, int c) { memset(tiles->row[c], 0, sizeof tiles->row[c]); }
static inline void plx_tile_load(plx_tiles *tiles, int c, const void *from, size_t stride)
{
    for (size_t m = 0; m < plx_tile_rows(tiles, c); m++)
        memcpy(tiles->row[c][m], (const char *)from + m * stride, plx_tile_bytes(tiles, c));
}
static inline void plx_tile_store(const plx_tiles *tiles, int c, void *to, size_t stride)
{
    for (size_t m = 0; m < plx_tile_rows(tiles, c); m++)
        memcpy((char *)to + m * stride, tiles->row[c][m], plx_tile_bytes(tiles, c));
}
/* Summed as the instruction does: even and odd k each from 0 on, then together, then with c. */
static inline void plx_tile_dot(plx_tiles *tiles, int c, int a, int b)
{
    for (size_t m = 0; m < 16; m++) {
        vf sum, evens = vf_set(0), odds = vf_set(0);
        for (size_t r = 0; r < 16; r++) {
            vi pairs;
            memcpy(&pairs, tiles->row[b][r], sizeof pairs);
            int32_t left = (int32_t)tiles->row[a][m][r];
            vi even = (vi){0} + (int32_t)((uint32_t)left << 16), odd = (vi){0} + (left & (int32_t)0xffff0000);
            evens += (vf)even * (vf)(pairs << 16);
            odds += (vf)odd * (vf)(pairs & (int32_t)0xffff0000);
        }
        memcpy(&sum, tiles->row[c][m], sizeof sum);
        sum += evens + odds;
        memcpy(tiles->row[c][m], &sum, sizeof sum);
    }
}
static inline void plx_tile_dot_whole(plx_tiles *tiles, int c, int a, int b)
{
    for (size_t m = 0; m < 16; m++) {
        vi sum;
        memcpy(&sum, tiles->row[c][m], sizeof sum);
        for (size_t r = 0; r < 8; r++) {
            vi fours;
            memcpy(&fours, tiles->row[b][r], sizeof fours);
            for (int j = 0; j < 4; j++)
                sum += (fours << (24 - 8 * j) >> 24) * (int32_t)(int8_t)(tiles->row[a][m][r] >> 8 * j);
        }
        memcpy(tiles->row[c][m], &sum, sizeof sum);
    }
}
#endif

/* ---- f32 to bf16, to nearest with ties to even; NaN stays NaN ---- */

/* The bf16 of each lane, in the lane's low half. */
static inline vi vf_to_bf16(vf x)
{
    vi bits = (vi)x, nan = (vi)(x != x);
    vi rounded = ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) & 0xffff;
    return (nan & ((bits >> 16 & 0xffff) | 0x40)) | (~nan & rounded);
}
/* 16 pairs for a row of a right operand: even[n] in the low half of lane n, odd[n] in the high. */
static inline vi vf_bf16_pairs(vf even, vf odd)
{
#if defined(__AVX512BF16__)
    static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512bh both = _mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
    return (vi)_mm512_permutexvar_epi16(_mm512_loadu_si512(order), (__m512i)both);
#else
    return vf_to_bf16(even) | vf_to_bf16(odd) << 16;
#endif
}
/* 32 numbers in a row of a left operand: first[0..15], second[0..15]. */
static inline void vf_store_bf16(void *to, vf first, vf second)
{
#if defined(__AVX512BF16__)
    __m512bh both = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    memcpy(to, &both, 64);
#else
    uint16_t half[32];
    vi a = vf_to_bf16(first), b = vf_to_bf16(second);
    for (size_t i = 0; i < 16; i++) {
        half[i] = (uint16_t)a[i];
        half[16 + i] = (uint16_t)b[i];
    }
    memcpy(to, half, 64);
#endif
}

#endif
