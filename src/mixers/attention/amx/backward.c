/* backward.c - gradients of attention with operands rounded to bf16. */
#define OPERAND_TERMS 1
#include "mixers/attention/amx/backward.h"

plx_status PLX_CPU(plx_attention_backward)(plx_context *context, const void *arguments)
{
    return attention_backward(context, arguments);
}
