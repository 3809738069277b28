/* pack.h - the tiles of 16 x 32 of a matrix product's operands, rounded to bf16 or in three terms. */
#ifndef PLX_KERNELS_AMX_PACK_H
#define PLX_KERNELS_AMX_PACK_H

#include "kernels/amx/terms.h"
#include "kernels/cpu/product.h"

#define TILE ((size_t)512) /* numbers of a tile */

/* Numbers k, k + 1, ... of an array of any type, 16 of them; 0 from `count` on. */
static inline vf load(const void *data, plx_type type, size_t index, size_t k, size_t count)
{
    return k < count ? product_load(data, type, index + k, count - k) : vf_set(0);
}

/* The tile of `side` (rows of op(A), columns of op(B)) first .. first + 15 and k .. k + 31. along: k runs along memory;
 * by_side: one row a number of the side, as left operands are, else one a pair of k. */
static inline void pack_tile(const void *data, plx_type type, size_t stride, bool along, bool by_side, size_t first,
                             size_t side, size_t k, size_t depth, uint16_t *to)
{
    vf row[16]; /* bits of bf16 pairs */
    if (along) {
        for (size_t i = 0; i < 16; i++) {
            row[i] = vf_set(0);
            if (first + i < side) {
                size_t at = (first + i) * stride;
                vf_store_bf16(&row[i], load(data, type, at, k, depth), load(data, type, at, k + 16, depth));
            }
        }
    } else {
        for (size_t i = 0; i < 16; i++) {
            size_t even = k + 2 * i, odd = even + 1;
            row[i] = (vf)vf_bf16_pairs(even < depth ? load(data, type, even * stride, first, side) : vf_set(0),
                                       odd < depth ? load(data, type, odd * stride, first, side) : vf_set(0));
        }
    }
    if (along != by_side) transpose(row);
    memcpy(to, row, sizeof row);
}

/* Row i of the tiles of both terms' pairs, those of each term 2 TILE behind the ones before. */
INLINE void store_terms(vf even, vf odd, uint16_t *to)
{
    vf a[TERMS], b[TERMS];
    vf_terms(even, a);
    vf_terms(odd, b);
    for (size_t t = 0; t < TERMS; t++) {
        vi pairs = vf_term_pairs(a[t], b[t]);
        memcpy(to + t * 2 * TILE, &pairs, sizeof pairs);
    }
}

/* The same in terms, the tile of each 2 TILE behind the one before. Slots 2i and 2i + 1 of a tile's k hold k + i and
 * k + 16 + i, on both sides: the terms of two vectors then lie in pairs without being turned. whole: nothing of the
 * tile lies beyond the operand. All but the data, places and counts are constants where this is inlined. */
INLINE void pack_terms_of(const void *data, const plx_type type, size_t stride, const bool along, const bool by_side,
                          const bool whole, size_t first, size_t side, size_t k, size_t depth, uint16_t *to)
{
    vf row[2][16];
    UNROLL for (size_t i = 0; i < 16; i++)
    {
        UNROLL for (size_t half = 0; half < 2; half++)
        {
            size_t at = along ? first + i : k + 16 * half + i, from = along ? k + 16 * half : first;
            if (whole)
                row[half][i] = product_load(data, type, at * stride + from, 16);
            else
                row[half][i] =
                    at < (along ? side : depth) ? load(data, type, at * stride, from, along ? depth : side) : vf_set(0);
            if (whole && by_side)
                __builtin_prefetch((const float *)data + at * stride + from + (along ? 2 * 16 * stride : 32), 0, 2);
        }
        if (along == by_side) store_terms(row[0][i], row[1][i], to + 32 * i);
    }
    if (along == by_side) return;
    transpose(row[0]);
    transpose(row[1]);
    UNROLL for (size_t i = 0; i < 16; i++) store_terms(row[0][i], row[1][i], to + 32 * i);
}
INLINE void pack_terms_as(const void *data, const plx_type type, size_t stride, bool along, const bool by_side,
                          const bool whole, size_t first, size_t side, size_t k, size_t depth, uint16_t *to)
{
    if (along)
        pack_terms_of(data, type, stride, true, by_side, whole, first, side, k, depth, to);
    else
        pack_terms_of(data, type, stride, false, by_side, whole, first, side, k, depth, to);
}
INLINE void pack_terms(const void *data, plx_type type, size_t stride, bool along, const bool by_side, size_t first,
                       size_t side, size_t k, size_t depth, uint16_t *to)
{
    if (type == PLX_F32 && first + 16 <= side && k + 32 <= depth)
        pack_terms_as(data, PLX_F32, stride, along, by_side, true, first, side, k, depth, to);
    else
        pack_terms_as(data, type, stride, along, by_side, false, first, side, k, depth, to);
}
static void pack_left(const void *data, plx_type type, size_t stride, bool along, size_t first, size_t side, size_t k,
                      size_t depth, uint16_t *to)
{
    pack_terms(data, type, stride, along, true, first, side, k, depth, to);
}
static void pack_right(const void *data, plx_type type, size_t stride, bool along, size_t first, size_t side, size_t k,
                       size_t depth, uint16_t *to)
{
    pack_terms(data, type, stride, along, false, first, side, k, depth, to);
}

#endif
