/* profile.c - where the time of operations goes. Kept by the context, written by plx_op_run. */
#include "kernels/kernels.h"

#include <string.h>

struct plx_profile {
    bool on;
    int count;
    double inner;             /* seconds of operations that the running one ran itself */
    plx_profile_row rows[64]; /* in the order of their first call; the last takes what finds no place */
};

/* Products are told apart by what they are for. */
static const char *label_of(const plx_op *op, const void *arguments)
{
    if (op != &plx_op_matmul && op != &plx_op_matmul_group) return op->name;
    const plx_matmul_args *a =
        op == &plx_op_matmul ? arguments : ((const plx_matmul_group_args *)arguments)->part; /* all of one kind */
    return a->transpose_a ? "matmul.dweight" : a->transpose_b ? "matmul.forward" : "matmul.dinput";
}

plx_status plx_profile_enable(plx_context *context, bool on)
{
    if (context->profile == NULL && on) {
        context->profile = plx_alloc(context, sizeof *context->profile);
        if (context->profile == NULL) return PLX_ERROR_MEMORY;
    }
    if (context->profile != NULL) context->profile->on = on;
    return PLX_OK;
}

void plx_profile_clear(plx_context *context)
{
    plx_free(context, context->profile);
    context->profile = NULL;
}

void plx_profile_visit(const plx_context *context, void (*visit)(void *user, const plx_profile_row *row), void *user)
{
    for (int i = 0; context->profile != NULL && i < context->profile->count; i++)
        visit(user, &context->profile->rows[i]);
}

static plx_profile_row *row_of(plx_profile *profile, const char *op, const char *kernel)
{
    const int limit = sizeof profile->rows / sizeof profile->rows[0];
    int at = 0;
    while (at < profile->count &&
           (strcmp(profile->rows[at].op, op) != 0 || strcmp(profile->rows[at].kernel, kernel) != 0))
        at++;
    if (at == limit) return &profile->rows[limit - 1];
    if (at == profile->count) profile->rows[profile->count++] = (plx_profile_row){.op = op, .kernel = kernel};
    return &profile->rows[at];
}

plx_status plx_profile_run(plx_context *context, const plx_op *op, const plx_kernel *kernel, const void *arguments)
{
    plx_profile *profile = context->profile;
    if (profile == NULL || !profile->on) return kernel->run(context, arguments);
    plx_profile_row *row = row_of(profile, label_of(op, arguments), kernel->name);
    if (op->flops != NULL) row->flops += op->flops(arguments);
    row->calls++;
    double outer = profile->inner, began = plx_seconds();
    profile->inner = 0;
    plx_status status = kernel->run(context, arguments);
    double seconds = plx_seconds() - began;
    row->seconds += seconds - profile->inner;
    profile->inner = outer + seconds;
    return status;
}
