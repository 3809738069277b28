/* packing.c - numbers out of blocks.
 *
 * Every block holds a scale d in f16 and small whole numbers q. Products of a scale and a whole number are exact in
 * f32 wherever something is added to them, so that a compiler's fused multiply-adds change nothing.
 *
 *     Q8_0   d, q[32] signed bytes                     d q
 *     Q4_0   d, 16 bytes of two q                      d (q - 8)           low halves are numbers 0-15, high 16-31
 *     Q4_1   d, m, 16 bytes                            d q + m
 *     Q5_0   d, 32 bits: the fifth bits, 16 bytes      d (q - 16)
 *     Q5_1   d, m, 32 bits, 16 bytes                   d q + m
 *     Q4_K   d, m, 12 bytes: eight pairs of 6 bits (s, t), 128 bytes; number i is of pair i / 32      d s q - m t
 *     Q5_K   the same with 32 bytes of fifth bits before the 128
 *     Q6_K   128 bytes of four bits, 64 of two, 16 signed bytes s, d; number i is of s[i / 16]        d s (q - 32) */
#include "io/packing.h"

#include "kernels/half.h"

static const struct {
    const char *name;
    size_t numbers, bytes;
} packings[] = {
#define PLX_PACKING_ROW(name, numbers, bytes) {#name, numbers, bytes},
    PLX_PACKING_LIST(PLX_PACKING_ROW)
#undef PLX_PACKING_ROW
};

const char *plx_packing_name(plx_packing packing) { return packings[packing].name; }
size_t plx_packing_numbers(plx_packing packing) { return packings[packing].numbers; }
size_t plx_packing_bytes(plx_packing packing) { return packings[packing].bytes; }

bool plx_packing_plain(plx_packing packing, plx_type *type)
{
    switch (packing) {
    case PLX_PACKED_F32: *type = PLX_F32; return true;
    case PLX_PACKED_F64: *type = PLX_F64; return true;
    case PLX_PACKED_BF16: *type = PLX_BF16; return true;
    case PLX_PACKED_F16: *type = PLX_F16; return true;
    default: return false;
    }
}

plx_packing plx_packing_of(plx_type type)
{
    switch (type) {
    case PLX_F64: return PLX_PACKED_F64;
    case PLX_BF16: return PLX_PACKED_BF16;
    case PLX_F16: return PLX_PACKED_F16;
    case PLX_F32: break;
    }
    return PLX_PACKED_F32;
}

static float read_f16(const uint8_t *at) { return plx_float_of_f16((uint16_t)(at[0] | at[1] << 8)); }

static void unpack_q8_0(const uint8_t *block, float *y)
{
    float d = read_f16(block);
    for (int i = 0; i < 32; i++) y[i] = d * (float)(int8_t)block[2 + i];
}

/* Q4_0, Q4_1, Q5_0, Q5_1: `head` bytes before the fifth bits (if any) and the sixteen bytes; without a minimum in the
 * head the numbers are centred by `centre`. */
static inline void unpack_small(const uint8_t *block, int head, bool fifth, int centre, float *y)
{
    float d = read_f16(block), m = head == 4 ? read_f16(block + 2) : 0.0f;
    const uint8_t *bits = block + head, *q = bits + (fifth ? 4 : 0);
    uint32_t high = fifth ? bits[0] | (uint32_t)bits[1] << 8 | (uint32_t)bits[2] << 16 | (uint32_t)bits[3] << 24 : 0;
    for (int i = 0; i < 16; i++) {
        int a = (q[i] & 15) | (int)(high >> i & 1) << 4, b = q[i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
        y[i] = d * (float)(a - centre);
        y[i + 16] = d * (float)(b - centre);
        if (head == 4) {
            y[i] += m;
            y[i + 16] += m;
        }
    }
}

/* Scale and minimum of group j of 8: six bits each; those of groups 4-7 are split between two bytes. */
static void group_scales(const uint8_t *packed, int j, int *scale, int *minimum)
{
    if (j < 4) {
        *scale = packed[j] & 63;
        *minimum = packed[j + 4] & 63;
    } else {
        *scale = (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
        *minimum = packed[j + 4] >> 4 | packed[j] >> 6 << 4;
    }
}

/* Groups 2p and 2p+1 are the low and high halves of bytes 32p .. 32p+31; fifth[i] holds number i's fifth bit of group j
 * in bit j. */
static inline void unpack_groups(const uint8_t *block, const uint8_t *fifth, const uint8_t *q, float *y)
{
    float d = read_f16(block), m = read_f16(block + 2);
    for (int j = 0; j < 8; j++) {
        int scale, minimum;
        group_scales(block + 4, j, &scale, &minimum);
        float step = d * (float)scale, least = m * (float)minimum;
        for (int i = 0; i < 32; i++) {
            int number = q[j / 2 * 32 + i] >> j % 2 * 4 & 15;
            if (fifth != NULL) number |= (fifth[i] >> j & 1) << 4;
            y[32 * j + i] = step * (float)number - least;
        }
    }
}

/* Each half of 128 numbers has 64 bytes of low bits and 32 of high ones. */
static void unpack_q6_k(const uint8_t *block, float *y)
{
    const int8_t *scales = (const int8_t *)block + 192;
    float d = read_f16(block + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, quarter = i % 128 / 32, at = i % 32;
        int low = block[64 * half + quarter % 2 * 32 + at] >> quarter / 2 * 4 & 15;
        int high = block[128 + 32 * half + at] >> 2 * quarter & 3;
        y[i] = d * (float)scales[i / 16] * (float)((low | high << 4) - 32);
    }
}

void plx_packing_loosen(plx_packing packing, const void *block_at, int part, float *d, float *m, int8_t q[32])
{
    const uint8_t *block = block_at;
    const bool group = packing == PLX_PACKED_Q4_K || packing == PLX_PACKED_Q5_K;
    const bool least = group || packing == PLX_PACKED_Q4_1 || packing == PLX_PACKED_Q5_1;
    const bool fifth = packing == PLX_PACKED_Q5_0 || packing == PLX_PACKED_Q5_1 || packing == PLX_PACKED_Q5_K;
    const int centre = packing == PLX_PACKED_Q4_0 ? 8 : packing == PLX_PACKED_Q5_0 ? 16 : 0;
    *d = read_f16(block);
    *m = least ? read_f16(block + 2) : 0.0f;
    if (packing == PLX_PACKED_Q8_0) {
        memcpy(q, block + 2, 32);
        return;
    }
    const uint8_t *after = block + (group ? 16 : least ? 4 : 2), *low = after;
    if (group) {
        int scale, minimum;
        group_scales(block + 4, part, &scale, &minimum);
        *d *= (float)scale;
        *m *= -(float)minimum;
        low += (fifth ? 32 : 0) + part / 2 * 32;
        for (int i = 0; i < 32; i++)
            q[i] = (int8_t)((low[i] >> part % 2 * 4 & 15) | (fifth ? (after[i] >> part & 1) << 4 : 0));
        return;
    }
    uint32_t high = fifth ? after[0] | (uint32_t)after[1] << 8 | (uint32_t)after[2] << 16 | (uint32_t)after[3] << 24 : 0;
    low += fifth ? 4 : 0;
    for (int i = 0; i < 32; i++)
        q[i] = (int8_t)(((low[i % 16] >> i / 16 * 4 & 15) | (int)(high >> i & 1) << 4) - centre);
}

/* Plain numbers; the switch is outside of the loops. */
static void unpack_plain(plx_packing packing, const void *data, size_t count, float *y)
{
    if (packing == PLX_PACKED_F32) memcpy(y, data, count * sizeof *y);
    if (packing == PLX_PACKED_F64)
        for (size_t i = 0; i < count; i++) y[i] = (float)((const double *)data)[i];
    if (packing == PLX_PACKED_BF16)
        for (size_t i = 0; i < count; i++) y[i] = plx_float_of_bf16(((const uint16_t *)data)[i]);
    if (packing == PLX_PACKED_F16)
        for (size_t i = 0; i < count; i++) y[i] = plx_float_of_f16(((const uint16_t *)data)[i]);
}

void plx_packing_unpack(plx_packing packing, const void *blocks, size_t count, float *numbers)
{
    const uint8_t *block = blocks;
    const size_t bytes = packings[packing].bytes, step = packings[packing].numbers;
    if (step == 1) {
        unpack_plain(packing, blocks, count, numbers);
        return;
    }
    for (size_t i = 0; i < count; i++, block += bytes, numbers += step) switch (packing) {
        case PLX_PACKED_Q8_0: unpack_q8_0(block, numbers); break;
        case PLX_PACKED_Q4_0: unpack_small(block, 2, false, 8, numbers); break;
        case PLX_PACKED_Q4_1: unpack_small(block, 4, false, 0, numbers); break;
        case PLX_PACKED_Q5_0: unpack_small(block, 2, true, 16, numbers); break;
        case PLX_PACKED_Q5_1: unpack_small(block, 4, true, 0, numbers); break;
        case PLX_PACKED_Q4_K: unpack_groups(block, NULL, block + 16, numbers); break;
        case PLX_PACKED_Q5_K: unpack_groups(block, block + 16, block + 48, numbers); break;
        case PLX_PACKED_Q6_K: unpack_q6_k(block, numbers); break;
        default: break;
        }
}
