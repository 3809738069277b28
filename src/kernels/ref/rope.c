/* rope.c - turns pairs of components by angles that grow with the position. */
#include "kernels/ref/ref.h"

#include <math.h>

plx_status plx_rope_ref(plx_context *context, const void *arguments)
{
    (void)context;
    const plx_rope_args *a = arguments;
    double magnitude = a->magnitude > 0 ? a->magnitude : 1;
    bool halves = a->layout == PLX_ROPE_HALVES;
    for (size_t token = 0; token < a->tokens; token++) {
        size_t position = (size_t)a->position[token];
        for (size_t pair = 0; pair < a->pairs; pair++) {
            double cosine, sine;
            if (position < a->table_rows) {
                cosine = plx_ref_get(a->cosine, a->type, position * a->pairs + pair);
                sine = plx_ref_get(a->sine, a->type, position * a->pairs + pair);
            } else {
                cosine = magnitude * cos((double)position * a->frequency[pair]);
                sine = magnitude * sin((double)position * a->frequency[pair]);
            }
            if (a->inverse) sine = -sine;
            for (size_t head = 0; head < a->heads; head++) {
                size_t base = (token * a->heads + head) * a->head_dim;
                size_t first = base + (halves ? pair : 3 * pair), second = halves ? first + a->pairs : first + 1;
                double x = plx_ref_get(a->x, a->type, first), y = plx_ref_get(a->x, a->type, second);
                plx_ref_put(a->x, a->type, first, x * cosine - y * sine);
                plx_ref_put(a->x, a->type, second, x * sine + y * cosine);
            }
        }
    }
    return PLX_OK;
}
