/* fuzz_safetensors.c - libFuzzer over the header of a safetensors file. The first byte is the size of the data, the
 * rest the header: so that short inputs reach the checks of the layout. */
#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static plx_context *context; /* kept from run to run: making one is slow */
    if (context == NULL && plx_context_create(NULL, &context) != PLX_OK) return 0;
    if (size == 0) return 0;
    plx_safetensors_check_header(context, (const char *)data + 1, size - 1, data[0]);
    return 0;
}
