/* history.h - how the tokens of a history lie in memory, whole or packed, and their numbers as f32.
 *
 * A token of `width` numbers is
 *     whole   `width` numbers of the run's type
 *     f16     `width` halves, rounded to nearest even; finite numbers stay finite (at most 65,504)
 *     q8      `width` signed bytes, zeros up to a multiple of 4, and a float for each 32 of them, the scale:
 *             x = scale * byte, scale = max |x| / 127 over the 32, so that x is off by scale / 2 at most; a scale that
 * is NaN stands for numbers that are not all finite */
#ifndef PLX_KERNELS_HISTORY_H
#define PLX_KERNELS_HISTORY_H

#include "kernels/half.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#define PLX_Q8_BLOCK 32

static inline size_t plx_q8_scales_at(size_t width) { return (width + 3) / 4 * 4; }
static inline size_t plx_history_token_bytes(plx_state_form form, plx_type type, size_t width)
{
    if (form == PLX_STATE_F16) return width * sizeof(uint16_t);
    if (form == PLX_STATE_Q8)
        return plx_q8_scales_at(width) + (width + PLX_Q8_BLOCK - 1) / PLX_Q8_BLOCK * sizeof(float);
    return width * plx_type_size(type);
}
/* Where token j of row b begins. */
static inline char *plx_history_token(const plx_history *history, plx_type type, size_t b, int64_t j)
{
    size_t row = history->slot != NULL ? (size_t)history->slot[b] : b;
    int64_t base = history->base != NULL ? history->base[b] : 0;
    size_t token = history->width > 0 ? row * (history->row_stride / history->width) + (size_t)(j - base) : 0;
    return (char *)history->data + token * plx_history_token_bytes(history->form, type, history->width);
}

/* Adding 1.5 * 2^23 rounds to a whole number, to nearest even, in a way that compilers make vectors of. */
static inline void plx_pack_q8_block(const float *x, size_t count, int8_t *bytes, float *scale)
{
    const float magic = 12582912.0f;
    float top = 0, check = 0;
    for (size_t i = 0; i < count; i++) {
        float size = fabsf(x[i]);
        top = size > top ? size : top;
        check += x[i] * 0.0f; /* NaN for what is not finite */
    }
    float factor = top > 1e-30f ? 127.0f / top : 0.0f;
    *scale = factor > 0 ? top / 127.0f + check : check;
    for (size_t i = 0; i < count; i++) {
        float moved = (check == 0 ? x[i] * factor : 0.0f) + magic;
        int32_t bits, zero;
        memcpy(&bits, &moved, sizeof bits);
        memcpy(&zero, &magic, sizeof zero);
        bytes[i] = (int8_t)(bits - zero);
    }
}
static inline void plx_pack_token(plx_state_form form, const float *x, size_t width, void *token)
{
    if (form == PLX_STATE_F16) {
        for (size_t i = 0; i < width; i++) {
            float size = fabsf(x[i]), kept = size > 65504.0f && size < INFINITY ? copysignf(65504.0f, x[i]) : x[i];
            ((uint16_t *)token)[i] = plx_f16_of_float(kept);
        }
        return;
    }
    size_t scales = plx_q8_scales_at(width);
    memset((char *)token + width, 0, scales - width);
    for (size_t i = 0; i < width; i += PLX_Q8_BLOCK) {
        size_t count = width - i < PLX_Q8_BLOCK ? width - i : PLX_Q8_BLOCK;
        plx_pack_q8_block(x + i, count, (int8_t *)token + i, (float *)((char *)token + scales) + i / PLX_Q8_BLOCK);
    }
}

/* Numbers from .. from + count - 1 of a packed token. */
static inline void plx_unpack_token(plx_state_form form, const void *token, size_t width, size_t from, size_t count,
                                    float *to)
{
    if (form == PLX_STATE_F16) {
        const uint16_t *half = (const uint16_t *)token + from;
        for (size_t i = 0; i < count; i++) to[i] = plx_float_of_f16(half[i]);
        return;
    }
    const int8_t *bytes = (const int8_t *)token + from;
    const float *scales = (const float *)((const char *)token + plx_q8_scales_at(width));
    for (size_t i = 0; i < count;) {
        size_t left = PLX_Q8_BLOCK - (from + i) % PLX_Q8_BLOCK, end = count - i < left ? count : i + left;
        float scale = scales[(from + i) / PLX_Q8_BLOCK];
        for (; i < end; i++) to[i] = scale * (float)bytes[i];
    }
}

/* Numbers from .. from + count - 1 of tokens j .. j + rows - 1 of a history of f32, packed or not; rows are `stride`
 * apart in `to`. */
static inline void plx_history_rows(const plx_history *history, size_t b, int64_t j, size_t rows, size_t from,
                                    size_t count, float *to, size_t stride)
{
    const size_t bytes = plx_history_token_bytes(history->form, PLX_F32, history->width);
    const char *token = plx_history_token(history, PLX_F32, b, j);
    for (size_t i = 0; i < rows; i++, token += bytes, to += stride) {
        if (history->form == PLX_STATE_WHOLE)
            memcpy(to, (const float *)token + from, count * sizeof *to);
        else
            plx_unpack_token(history->form, token, history->width, from, count, to);
    }
}
/* Number i of token j of row b, for references. */
static inline double plx_history_get(const plx_history *history, plx_type type, size_t b, int64_t j, size_t i)
{
    const char *token = plx_history_token(history, type, b, j);
    if (history->form == PLX_STATE_WHOLE) return plx_get(token, type, i);
    float value;
    plx_unpack_token(history->form, token, history->width, i, 1, &value);
    return value;
}

#endif
