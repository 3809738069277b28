/* files.c - files for tests. */
#include "support/files.h"

#include "io/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

plx_context *context;

int open_context(void **state)
{
    (void)state;
    return plx_context_create(NULL, &context) == PLX_OK ? 0 : -1;
}

int close_context(void **state)
{
    (void)state;
    plx_context_free(context);
    context = NULL;
    return 0;
}

static char directory[64];
static long owner;

static void clean_up(void)
{
    plx_context *own = NULL;
    if (getpid() != owner || plx_context_create(NULL, &own) != PLX_OK) return;
    plx_directory_remove(own, directory);
    plx_context_free(own);
}

const char *test_path(const char *name)
{
    static char paths[16][160];
    static int next;
    if (directory[0] == '\0') {
        strcpy(directory, "/tmp/plexus-test-XXXXXX");
        if (mkdtemp(directory) == NULL) abort();
        owner = getpid();
        atexit(clean_up);
    }
    char *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

const char *test_file(const char *name, const void *data, size_t bytes)
{
    const char *path = test_path(name);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) abort();
    return path;
}

char *test_read(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) return NULL;
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *text = malloc((size_t)size + 1);
    *bytes = fread(text, 1, (size_t)size, file);
    text[*bytes] = '\0';
    fclose(file);
    return text;
}

static void *counting_resize(void *user, void *pointer, size_t bytes)
{
    test_allocator *self = user;
    self->calls++;
    if (self->fail_at > 0 && (self->once ? self->calls == self->fail_at : self->calls >= self->fail_at)) return NULL;
    void *memory = realloc(pointer, bytes);
    if (pointer == NULL && memory != NULL) self->held++;
    return memory;
}

static void counting_release(void *user, void *pointer)
{
    if (pointer == NULL) return;
    ((test_allocator *)user)->held--;
    free(pointer);
}

plx_allocator test_allocation(test_allocator *allocator)
{
    return (plx_allocator){counting_resize, counting_release, allocator};
}

plx_context *test_counting_context(test_allocator *allocator)
{
    plx_context *context = NULL;
    plx_context_options options = {.threads = 1, .allocator = test_allocation(allocator)};
    plx_status status = plx_context_create(&options, &context);
    if (status != PLX_OK) fail_msg("no context: %s", plx_status_name(status));
    return context;
}
