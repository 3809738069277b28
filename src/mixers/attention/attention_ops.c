/* attention_ops.c - the lists of implementations of attention's operations. */
#include "mixers/attention/attention_ops.h"

PLX_CPU_DECLARE(plx_attention_forward)
PLX_TILES_DECLARE(plx_attention_forward)
PLX_TILES_DECLARE(plx_attention_forward_terms)
PLX_CPU_DECLARE(plx_attention_backward)
PLX_TILES_DECLARE(plx_attention_backward)
PLX_TILES_DECLARE(plx_attention_backward_terms)

double plx_attention_pairs(size_t rows, size_t length, size_t window)
{
    double full = window == 0 || window > length ? (double)length : (double)window;
    /* queries 0 .. full-1 see t + 1 tokens, the others see `full` */
    return (double)rows * (full * (full + 1) / 2 + ((double)length - full) * full);
}

static double forward_flops(const void *arguments)
{
    const plx_attention_args *a = arguments;
    double pairs = plx_attention_pairs(a->sequence.rows, a->sequence.length, a->window);
    return 4 * pairs * (double)(a->heads * a->head_dim);
}

static double backward_flops(const void *arguments)
{
    const plx_attention_backward_args *a = arguments;
    double pairs = plx_attention_pairs(a->sequence.rows, a->sequence.length, a->window);
    return 10 * pairs * (double)(a->heads * a->head_dim);
}

static bool forward_accepts(const void *arguments) { return ((const plx_attention_args *)arguments)->type == PLX_F32; }

/* Keys and values are made into operands once a call: that needs queries enough to be worth it. */
static bool tiles_fit(const plx_sequence *sequence, size_t heads, size_t kv_heads)
{
    return sequence->length * (heads / kv_heads) >= 32;
}

static bool terms_accept(const void *arguments)
{
    const plx_attention_args *a = arguments;
    return a->type == PLX_F32 && a->keys.form == PLX_STATE_WHOLE && a->values.form == PLX_STATE_WHOLE &&
           tiles_fit(&a->sequence, a->heads, a->kv_heads);
}
static bool tiles_accept(const void *arguments)
{
    return ((const plx_attention_args *)arguments)->bf16 && terms_accept(arguments);
}
#if defined(__x86_64__)
/* For f32, which vectors multiply well too, a query must see so many keys that the products outweigh what making the
 * operands costs beyond what vectors need: measured at T 64, d 64 and T 128, d 32 (docs/results/cpu-kernels.md). */
static bool terms_pay(const plx_sequence *sequence, size_t window, size_t d)
{
    double seen = plx_attention_pairs(1, sequence->length, window) / (double)sequence->length;
    return d >= 32 && seen * (double)d >= 32 * 64;
}

static bool terms_accept_paying(const void *arguments)
{
    const plx_attention_args *a = arguments;
    return terms_accept(a) && terms_pay(&a->sequence, a->window, a->head_dim);
}
#endif

static bool backward_accepts(const void *arguments)
{
    return ((const plx_attention_backward_args *)arguments)->type == PLX_F32;
}

static bool terms_accept_backward(const void *arguments)
{
    const plx_attention_backward_args *a = arguments;
    return a->type == PLX_F32 && tiles_fit(&a->sequence, a->heads, a->kv_heads);
}
/* What forward took tiles for: P is made again from its lse, which rounded as they do. */
static bool tiles_accept_backward(const void *arguments)
{
    return ((const plx_attention_backward_args *)arguments)->bf16 && terms_accept_backward(arguments);
}
#if defined(__x86_64__)
static bool terms_accept_backward_paying(const void *arguments)
{
    const plx_attention_backward_args *a = arguments;
    return terms_accept_backward(a) && terms_pay(&a->sequence, a->window, a->head_dim);
}
#endif

const plx_op plx_op_attention_forward = {
    "attention.forward", forward_flops,
    (const plx_kernel[]){PLX_TILES_KERNEL(plx_attention_forward, tiles_accept)
                             PLX_TERMS_KERNEL(plx_attention_forward_terms, terms_accept_paying)
                                 PLX_CPU_KERNELS(plx_attention_forward, forward_accepts)
                                     PLX_TILES_EMULATED(plx_attention_forward, tiles_accept)
                                         PLX_TERMS_EMULATED(plx_attention_forward_terms, terms_accept){
                                             "ref", PLX_LEVEL_PORTABLE, NULL, plx_attention_forward_ref},
                         {0}}};

const plx_op plx_op_attention_backward = {
    "attention.backward", backward_flops,
    (const plx_kernel[]){PLX_TILES_KERNEL(plx_attention_backward, tiles_accept_backward)
                             PLX_TERMS_KERNEL(plx_attention_backward_terms, terms_accept_backward_paying)
                                 PLX_CPU_KERNELS(plx_attention_backward, backward_accepts)
                                     PLX_TILES_EMULATED(plx_attention_backward, tiles_accept_backward)
                                         PLX_TERMS_EMULATED(plx_attention_backward_terms, terms_accept_backward){
                                             "ref", PLX_LEVEL_PORTABLE, NULL, plx_attention_backward_ref},
                         {0}}};
