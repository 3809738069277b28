/* fuzz_jsonl.c - libFuzzer over the reading of text. The first byte chooses: JSON lines, plain text with separators,
 * and either of them as zstd; the rest is the file. */
#include "io/text_reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const ends[4] = {".jsonl", ".txt", ".jsonl.zst", ".txt.zst"};
    static plx_context *context; /* kept from run to run: making one is slow */
    if (context == NULL && plx_context_create(NULL, &context) != PLX_OK) return 0;
    if (size == 0) return 0;
    char path[64], link[96];
    int file = memfd_create("fuzz", 0);
    if (file < 0 || write(file, data + 1, size - 1) != (ssize_t)(size - 1)) abort();
    snprintf(path, sizeof path, "/proc/%ld/fd/%d", (long)getpid(), file);
    snprintf(link, sizeof link, "/tmp/plexus-fuzz-%ld%s", (long)getpid(), ends[data[0] % 4]);
    unlink(link);
    if (symlink(path, link) != 0) abort();

    const plx_text_options options = {.separator = "--"};
    plx_text_reader *reader;
    plx_text_piece piece;
    bool more = true, inside = false;
    size_t sum = 0;
    plx_status status = plx_text_open(context, link, &options, &reader);
    if (status == PLX_OK) {
        while ((status = plx_text_next(reader, &piece, &more)) == PLX_OK && more) {
            if (piece.starts == inside) abort(); /* documents begin once and end once */
            inside = !piece.ends;
            for (size_t i = 0; i < piece.count; i++) sum += (unsigned char)piece.bytes[i];
        }
        if (status == PLX_OK && inside) abort();
        plx_text_close(reader);
    }
    unlink(link);
    close(file);
    return sum == SIZE_MAX ? 1 : 0;
}
