/* forward.c - attention forward with operands rounded to bf16. */
#define OPERAND_TERMS 1
#include "mixers/attention/amx/forward.h"

plx_status PLX_CPU(plx_attention_forward)(plx_context *context, const void *arguments)
{
    return attention_forward(context, arguments);
}
