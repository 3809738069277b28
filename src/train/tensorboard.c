/* tensorboard.c - writes TensorBoard's event files.
 *
 * A file is a chain of records (TFRecord framing, everything little-endian):
 *
 *     u64 length | u32 masked CRC-32C of those 8 bytes | length bytes | u32 masked CRC-32C of them
 *
 * and each record is a protocol buffer message `Event` of which we need
 *
 *     1 wall_time: double   2 step: int64   3 file_version: string (the first record: "brain.Event:2")
 *     5 summary: Summary { repeated 1 value: Value { 1 tag: string, 2 simple_value: float } }
 *     7 session_log: SessionLog { 1 status: enum, START = 1 }
 *
 * A record is put together in a small buffer and handed over by one write, so that a reader never sees half of one. */
#include "train/tensorboard.h"
#include "train/logs.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

enum { RECORD_BYTES = 2048, TAG_BYTES = 128, VALUE_BYTES = TAG_BYTES + 16, FRAME_BYTES = 12 };
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
_Static_assert(FRAME_BYTES + 4 + 64 + PLX_SCALARS_MAX * (VALUE_BYTES + 3) <= RECORD_BYTES, "a full record fits");

struct plx_tensorboard {
    plx_context *context;
    plx_append_file file;
};

typedef struct buffer { unsigned char bytes[RECORD_BYTES]; size_t count; } buffer;

static void put_fixed(buffer *to, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) to->bytes[to->count++] = (unsigned char)(value >> (8 * i));
}

static void put_varint(buffer *to, uint64_t value)
{
    for (; value >= 0x80; value >>= 7) to->bytes[to->count++] = (unsigned char)(value | 0x80);
    to->bytes[to->count++] = (unsigned char)value;
}

static void put_key(buffer *to, int field, int wire)
{
    put_varint(to, (uint64_t)(field << 3 | wire));
}

static void put_bytes(buffer *to, int field, const void *data, size_t count)
{
    put_key(to, field, WIRE_BYTES);
    put_varint(to, count);
    memcpy(to->bytes + to->count, data, count);
    to->count += count;
}

static void put_double(buffer *to, int field, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_key(to, field, WIRE_FIXED64);
    put_fixed(to, bits, 8);
}

static void put_float(buffer *to, int field, double value)
{
    float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    put_key(to, field, WIRE_FIXED32);
    put_fixed(to, bits, 4);
}

/* CRC-32C (Castagnoli, reflected), rotated and offset as TFRecord asks. A few hundred bytes a step: bit by bit will
 * do. */
static uint32_t masked_crc(const unsigned char *data, size_t count)
{
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < count; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* An Event's first fields, with room before it for the frame. */
static void event_begin(buffer *event, size_t step)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    event->count = FRAME_BYTES;
    put_double(event, 1, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    put_key(event, 2, WIRE_VARINT);
    put_varint(event, step);
}

static plx_status event_write(plx_tensorboard *board, buffer *event)
{
    const size_t length = event->count - FRAME_BYTES;
    put_fixed(event, masked_crc(event->bytes + FRAME_BYTES, length), 4);
    const size_t total = event->count;
    event->count = 0;
    put_fixed(event, length, 8);
    put_fixed(event, masked_crc(event->bytes, 8), 4);
    return plx_append_write(&board->file, event->bytes, total);
}

plx_status plx_tensorboard_open(plx_context *context, const char *directory, size_t first_step, plx_tensorboard **out)
{
    static const char version[] = "brain.Event:2";
    plx_status status = PLX_OK;
    plx_tensorboard *board = plx_alloc(context, sizeof *board);
    char *path = NULL;
    if (board == NULL) return PLX_ERROR_MEMORY;
    board->context = context;
    board->file.descriptor = -1;

    /* TensorBoard takes any name with ".tfevents." in it, and reads the files of a directory in the order of their
     * names. */
    path = plx_format(context, "%s/events.out.tfevents.%010lld.%08zu.%ld", directory, (long long)time(NULL), first_step,
                      (long)getpid());
    if (path == NULL) { status = PLX_ERROR_MEMORY; goto done; }
    PLX_TRY_GOTO(status, done, plx_append_open(context, path, &board->file));

    buffer event;
    event_begin(&event, 0);
    put_bytes(&event, 3, version, strlen(version));
    PLX_TRY_GOTO(status, done, event_write(board, &event));
    if (first_step > 1) {
        static const unsigned char start[] = {1 << 3 | WIRE_VARINT, 1};
        event_begin(&event, first_step);
        put_bytes(&event, 7, start, sizeof start);
        PLX_TRY_GOTO(status, done, event_write(board, &event));
    }
    *out = board;
    board = NULL;
done:
    plx_tensorboard_close(board);
    plx_free(context, path);
    return status;
}

plx_status plx_tensorboard_scalars(plx_tensorboard *board, size_t step, const plx_scalar *scalars, size_t count)
{
    buffer event, summary = {.count = 0};
    if (count > PLX_SCALARS_MAX) return plx_fail(board->context, PLX_ERROR_INTERNAL, "%zu scalars in one event", count);
    for (size_t i = 0; i < count; i++) {
        buffer value = {.count = 0};
        size_t length = strlen(scalars[i].tag);
        put_bytes(&value, 1, scalars[i].tag, length < TAG_BYTES ? length : TAG_BYTES);
        put_float(&value, 2, scalars[i].value);
        put_bytes(&summary, 1, value.bytes, value.count);
    }
    event_begin(&event, step);
    put_bytes(&event, 5, summary.bytes, summary.count);
    return event_write(board, &event);
}

void plx_tensorboard_close(plx_tensorboard *board)
{
    if (board == NULL) return;
    plx_append_close(&board->file);
    plx_free(board->context, board);
}
