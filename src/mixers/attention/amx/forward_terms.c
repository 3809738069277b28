/* forward_terms.c - attention forward with operands of three terms: to f32's precision. */
#define OPERAND_TERMS 3
#include "mixers/attention/amx/forward.h"

plx_status PLX_CPU(plx_attention_forward_terms)(plx_context *context, const void *arguments)
{
    return attention_forward(context, arguments);
}
