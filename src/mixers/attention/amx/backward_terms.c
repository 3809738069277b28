/* backward_terms.c - gradients of attention with operands of three terms: to f32's precision. */
#define OPERAND_TERMS 3
#include "mixers/attention/amx/backward.h"

plx_status PLX_CPU(plx_attention_backward_terms)(plx_context *context, const void *arguments)
{
    return attention_backward(context, arguments);
}
