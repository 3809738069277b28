/* gradients.c - gradients against differences of the loss; see models.h */
#include "support/models.h"

#include "core/random.h"

#include <math.h>
#include <stdlib.h>

static double loss_of(plx_model *model, const plx_batch *batch)
{
    plx_score score = {0};
    expect_ok(model->context, plx_model_score(model, batch, &score));
    return score.loss_sum / score.weight;
}

/* One direction a tensor: half along the gradient, half random, so that the derivative is never small and every
 * component counts. */
void check_model_gradients(plx_model *model, const char *name)
{
    plx_context *context = model->context;
    test_batch batch = make_batch(2, 13, model->config.vocab_size, 6, 3);
    double loss;
    expect_ok(context, plx_model_gradients(model, &batch.batch, &loss));
    for (size_t i = 0; i < plx_model_tensor_count(model); i++) {
        plx_tensor_info info;
        plx_random random;
        plx_model_tensor(model, i, &info);
        size_t n = info.elements;
        double *w = malloc(n * 8), *g = malloc(n * 8), *u = malloc(n * 8), *moved = malloc(n * 8), gnorm = 0, rnorm = 0,
               along = 0, slope = 0;
        expect_ok(context, plx_model_read_tensor(model, info.name, false, w, n));
        expect_ok(context, plx_model_read_tensor(model, info.name, true, g, n));
        plx_random_init(&random, 9, i);
        for (size_t j = 0; j < n; j++) {
            u[j] = plx_random_normal(&random);
            gnorm += g[j] * g[j];
            rnorm += u[j] * u[j];
            along += u[j] * g[j];
        }
        gnorm = sqrt(gnorm);
        rnorm = along < 0 ? -sqrt(rnorm) : sqrt(rnorm); /* of a tensor of one number the halves must not cancel */
        assert_true(isfinite(gnorm));
        for (size_t j = 0; j < n; j++) {
            u[j] = u[j] / rnorm + (gnorm > 0 ? g[j] / gnorm : 0);
            slope += u[j] * g[j];
        }
        /* Fourth-order central difference: truncation h^4, rounding 1e-16 / h, both far below 1e-6 of the slopes met
         * here. */
        const double h = 1e-3;
        double f[4];
        static const double at[4] = {-2, -1, 1, 2};
        for (int k = 0; k < 4; k++) {
            for (size_t j = 0; j < n; j++) moved[j] = w[j] + at[k] * h * u[j];
            expect_ok(context, plx_model_write_tensor(model, info.name, moved, n));
            f[k] = loss_of(model, &batch.batch);
        }
        expect_ok(context, plx_model_write_tensor(model, info.name, w, n));
        double measured = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h);
        double error = fabs(measured - slope) / (fabs(slope) + 1e-7);
        if (!(error < 1e-6)) {
            /* a kink or strong curvature within h would show the same: a smaller step decides */
            const double small = 1e-4;
            for (int k = 0; k < 4; k++) {
                for (size_t j = 0; j < n; j++) moved[j] = w[j] + at[k] * small * u[j];
                expect_ok(context, plx_model_write_tensor(model, info.name, moved, n));
                f[k] = loss_of(model, &batch.batch);
            }
            expect_ok(context, plx_model_write_tensor(model, info.name, w, n));
            measured = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * small);
            error = fabs(measured - slope) / (fabs(slope) + 1e-6);
        }
        if (!(error < 1e-6))
            fail_msg("%s: %s: slope %.12g, measured %.12g, relative error %.2g", name, info.name, slope, measured,
                     error);
        free(w);
        free(g);
        free(u);
        free(moved);
    }
    free_batch(&batch);
}
