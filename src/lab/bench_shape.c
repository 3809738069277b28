/* bench_shape.c - the sizes of a case; see bench_shape.h. */
#include "lab/bench_shape.h"

#include <math.h>
#include <string.h>

enum { LAYERS_MOST = 1024 };

enum { SIZES = sizeof(plx_bench_shape) / sizeof(size_t) };
static size_t *sizes_of(plx_bench_shape *shape) { return (size_t *)shape; }

plx_bench_shape plx_bench_shape_with(plx_bench_shape shape, plx_bench_shape given)
{
    for (size_t i = 0; i < SIZES; i++)
        if (sizes_of(&shape)[i] != 0 && sizes_of(&given)[i] != 0) sizes_of(&shape)[i] = sizes_of(&given)[i];
    if (shape.w1 == 0 && shape.H != 0) shape.w1 = given.w1; /* a window where there is none */
    if (shape.G != 0 && given.G == 0 && shape.H % shape.G != 0) shape.G = shape.H;
    return shape;
}

bool plx_bench_shape_same(const plx_bench_shape *a, const plx_bench_shape *b) { return memcmp(a, b, sizeof *a) == 0; }

bool plx_bench_shape_reduce(plx_bench_shape *shape)
{
    if (shape->B > 1)
        shape->B = 1;
    else if (shape->layers > 2)
        shape->layers = (shape->layers + 1) / 2;
    else if (shape->H > 2 && shape->H % 2 == 0 && (shape->G % 2 == 0 || shape->G == 1) && shape->D == 0) {
        shape->H /= 2;
        if (shape->G > 1) shape->G /= 2;
    } else {
        size_t *sides[] = {&shape->T, &shape->M, &shape->N, &shape->K, &shape->vocab}, *longest = sides[0];
        for (size_t i = 1; i < sizeof sides / sizeof *sides; i++)
            if (*sides[i] > *longest) longest = sides[i];
        if (*longest <= 16) return false;
        *longest = (*longest + 1) / 2;
    }
    return true;
}

plx_status plx_bench_shape_check(plx_context *context, const plx_bench_case *about, const plx_bench_shape *s)
{
#define AT_LEAST_1(size) ((double)((size) > 0 ? (size) : 1))
    double rows = AT_LEAST_1(s->B) * AT_LEAST_1(s->T), wide = AT_LEAST_1(s->H) * AT_LEAST_1(s->d);
    double largest = rows * fmax(fmax(wide, (double)s->vocab), fmax((double)s->D, (double)s->ffn));
    const double others[] = {AT_LEAST_1(s->M) * AT_LEAST_1(s->N),
                             AT_LEAST_1(s->M) * AT_LEAST_1(s->K),
                             AT_LEAST_1(s->N) * AT_LEAST_1(s->K),
                             AT_LEAST_1(s->vocab) * AT_LEAST_1(s->D),
                             AT_LEAST_1(s->M) * AT_LEAST_1(s->vocab),
                             (double)s->count,
                             rows * AT_LEAST_1(s->rank) * AT_LEAST_1(s->rank),
                             AT_LEAST_1(s->rank) * AT_LEAST_1(s->D)};
#undef AT_LEAST_1
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) largest = fmax(largest, others[i]);
    if (s->G != 0 && s->H % s->G != 0)
        return plx_fail(context, PLX_ERROR_VALUE, "%s: %zu heads cannot share %zu key/value heads; choose a multiple",
                        about->name, s->H, s->G);
    if (s->layers > LAYERS_MOST)
        return plx_fail(context, PLX_ERROR_VALUE, "%s: at most %d layers", about->name, LAYERS_MOST);
    if (largest * sizeof(double) <= (double)plx_available_memory() && largest < INT32_MAX) return PLX_OK;
    return plx_fail(context, PLX_ERROR_VALUE, "%s: an array of %.3g numbers is too large; use smaller sizes",
                    about->name, largest);
}
