/* test_io.c - files, safetensors, and the reading of text. */
#include "support/files.h"

#include "io/files.h"
#include "io/safetensors.h"
#include "io/text_reader.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

/* ---- files ---- */

static void test_file_read_and_write(void **state)
{
    (void)state;
    char *data = NULL, *large = malloc(1000000);
    size_t bytes = 0;
    const char *path = test_path("whole");
    for (size_t i = 0; i < 1000000; i++) large[i] = (char)(i * 7 + i / 1000);
    expect_ok(context, plx_file_write(context, path, large, 1000000));
    expect_ok(context, plx_file_read(context, path, 1000000, &data, &bytes));
    assert_int_equal(bytes, 1000000);
    assert_memory_equal(data, large, bytes);
    assert_int_equal(data[bytes], 0);
    plx_free(context, data);
    expect_error(context, PLX_ERROR_FORMAT, "larger than 999999", plx_file_read(context, path, 999999, &data, &bytes));
    expect_ok(context, plx_file_write(context, path, "", 0));
    expect_ok(context, plx_file_read(context, path, 10, &data, &bytes));
    assert_int_equal(bytes, 0);
    plx_free(context, data);
    /* A file that reports no size. */
    expect_ok(context, plx_file_read(context, "/proc/self/status", 100000, &data, &bytes));
    assert_true(bytes > 100);
    plx_free(context, data);
    free(large);
}

static void test_file_errors(void **state)
{
    (void)state;
    char *data;
    size_t bytes;
    expect_error(context, PLX_ERROR_FILE, "missing", plx_file_read(context, test_path("missing"), 10, &data, &bytes));
    expect_error(context, PLX_ERROR_FILE, "directory", plx_file_read(context, "/tmp", 10, &data, &bytes));
    test_file("plain", "x", 1);
    expect_error(context, PLX_ERROR_FILE, "plain/a", plx_file_write(context, test_path("plain/a"), "x", 1));
    expect_error(context, PLX_ERROR_FILE, "not a directory", plx_directory_make(context, test_path("plain/a/b")));
    plx_writer writer;
    expect_ok(context, plx_writer_open(context, "/dev/full", &writer));
    expect_ok(context, plx_writer_put(&writer, "x", 1));
    expect_error(context, PLX_ERROR_FILE, "/dev/full': No space", plx_writer_finish(&writer));
}

/* A disk that is full from 64 KB on, by a limit on the size of files, in a child process: returns its exit status. */
static int on_full_disk(int (*body)(void))
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = {65536, 65536};
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(99);
        _exit(body());
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

static int write_too_much(void)
{
    char *large = calloc(1, 1000000);
    plx_status status = plx_file_write(context, test_path("kept"), large, 1000000);
    free(large);
    if (status != PLX_ERROR_FILE || strstr(plx_context_error(context)->message, "kept.tmp") == NULL) return 1;
    return plx_file_exists(test_path("kept.tmp")) ? 2 : 0;
}

static void test_file_on_full_disk(void **state)
{
    (void)state;
    size_t bytes;
    test_file("kept", "before", 6);
    assert_int_equal(on_full_disk(write_too_much), 0);
    char *text = test_read(test_path("kept"), &bytes);
    assert_string_equal(text, "before");
    free(text);
}

static void test_directory_commit(void **state)
{
    (void)state;
    char *aside, *second;
    const char *path = test_path("deep/er/directory");
    expect_ok(context, plx_directory_begin(context, path, &aside));
    assert_non_null(strstr(aside, "directory.tmp-"));
    assert_false(plx_file_exists(path));
    char *inside = plx_format(context, "%s/file", aside);
    expect_ok(context, plx_file_write(context, inside, "x", 1));
    plx_free(context, inside);
    expect_ok(context, plx_directory_commit(context, aside, path));
    assert_true(plx_file_exists(test_path("deep/er/directory/file")));
    expect_error(context, PLX_ERROR_EXISTS, "directory", plx_directory_begin(context, path, &aside));

    path = test_path("late");
    expect_ok(context, plx_directory_begin(context, path, &aside));
    mkdir(path, 0777); /* somebody else was faster */
    expect_error(context, PLX_ERROR_EXISTS, "late", plx_directory_commit(context, aside, path));
    assert_true(rmdir(path) == 0);

    expect_ok(context, plx_directory_begin(context, path, &aside));
    second = plx_strdup(context, aside);
    plx_directory_abandon(context, aside);
    assert_false(plx_file_exists(second) || plx_file_exists(path));
    plx_free(context, second);
}

static void test_directory_remove(void **state)
{
    (void)state;
    expect_ok(context, plx_directory_make(context, test_path("tree/a/b/c")));
    expect_ok(context, plx_directory_make(context, test_path("elsewhere")));
    test_file("elsewhere/safe", "x", 1);
    test_file("tree/a/file", "x", 1);
    assert_int_equal(symlink(test_path("elsewhere"), test_path("tree/a/link")), 0);
    expect_ok(context, plx_directory_remove(context, test_path("tree")));
    assert_false(plx_file_exists(test_path("tree")));
    assert_true(plx_file_exists(test_path("elsewhere/safe"))); /* links are not followed */
    expect_ok(context, plx_directory_remove(context, test_path("tree")));
}

/* ---- safetensors ---- */

static plx_status fetch_bytes(void *user, size_t first, size_t count, void *data)
{
    const struct {
        const char *bytes;
        size_t size;
    } *from = user;
    memcpy(data, from->bytes + first * from->size, count * from->size);
    return PLX_OK;
}

static plx_status fetch_nothing(void *user, size_t first, size_t count, void *data)
{
    (void)first;
    memset(data, 0, count);
    return plx_fail(user, PLX_ERROR_NUMERIC, "fetch said no");
}

static void test_safetensors_round_trip(void **state)
{
    (void)state;
    enum { LARGE = 700001 };
    float *large = malloc(LARGE * sizeof *large), *back = malloc(LARGE * sizeof *back);
    double few[6] = {1, -2, 3.5, 1e300, -0.0, 5};
    for (size_t i = 0; i < LARGE; i++) large[i] = (float)i * 0.25f;
    struct {
        const void *bytes;
        size_t size;
    } sources[2] = {{large, sizeof *large}, {few, sizeof *few}};
    plx_safetensors_entry entries[] = {
        {.name = "z.large", .type = PLX_F32, .rank = 1, .shape = {LARGE}, .fetch = fetch_bytes, .user = &sources[0]},
        {.name = "empty", .type = PLX_F16, .rank = 2, .shape = {3, 0}, .fetch = fetch_bytes, .user = &sources[0]},
        {.name = "a \"few\" \xc3\xa9",
         .type = PLX_F64,
         .rank = 2,
         .shape = {2, 3},
         .fetch = fetch_bytes,
         .user = &sources[1]},
        {.name = "scalar", .type = PLX_F32, .rank = 0, .fetch = fetch_bytes, .user = &sources[0]},
    };
    const char *path = test_path("round.safetensors");
    expect_ok(context, plx_safetensors_write(context, path, entries, 4, "format", "pt"));
    plx_safetensors *file;
    expect_ok(context, plx_safetensors_open(context, path, &file));
    assert_int_equal(plx_safetensors_count(file), 4);
    const plx_safetensor *tensor = plx_safetensors_find(file, "z.large");
    assert_non_null(tensor);
    assert_true(tensor->type == PLX_F32 && tensor->rank == 1 && tensor->elements == LARGE && tensor->offset % 8 == 0);
    expect_ok(context, plx_safetensors_read(file, tensor, back, LARGE * sizeof *back));
    assert_memory_equal(back, large, LARGE * sizeof *back);
    tensor = plx_safetensors_find(file, entries[2].name);
    assert_true(tensor->type == PLX_F64 && tensor->rank == 2 && tensor->shape[0] == 2 && tensor->shape[1] == 3);
    expect_ok(context, plx_safetensors_read(file, tensor, back, sizeof few));
    assert_memory_equal(back, few, sizeof few);
    expect_error(context, PLX_ERROR_VALUE, "48 bytes", plx_safetensors_read(file, tensor, back, 40));
    assert_null(plx_safetensors_find(file, "none"));
    assert_null(plx_safetensors_at(file, 4));

    /* A file that shrinks under us is an error, not a signal. */
    assert_int_equal(truncate(path, 3000), 0);
    tensor = plx_safetensors_find(file, "z.large");
    expect_error(context, PLX_ERROR_FORMAT, "cut off", plx_safetensors_read(file, tensor, back, LARGE * sizeof *back));
    plx_safetensors_close(file);
    expect_error(context, PLX_ERROR_FORMAT, "cut off", plx_safetensors_open(context, path, &file));
    free(large);
    free(back);
}

static void test_safetensors_writing_fails(void **state)
{
    (void)state;
    float one = 1;
    struct {
        const void *bytes;
        size_t size;
    } source = {&one, sizeof one};
    plx_safetensors_entry entries[] = {
        {.name = "a", .type = PLX_F32, .rank = 1, .shape = {1}, .fetch = fetch_bytes, .user = &source},
        {.name = "a", .type = PLX_F32, .rank = 1, .shape = {1}, .fetch = fetch_bytes, .user = &source},
    };
    const char *path = test_path("bad.safetensors");
    expect_error(context, PLX_ERROR_VALUE, "'a' is taken",
                 plx_safetensors_write(context, path, entries, 2, NULL, NULL));
    entries[1] = (plx_safetensors_entry){
        .name = "b", .type = PLX_F32, .rank = 1, .shape = {9}, .fetch = fetch_nothing, .user = context};
    expect_error(context, PLX_ERROR_NUMERIC, "said no", plx_safetensors_write(context, path, entries, 2, NULL, NULL));
    entries[1].rank = 3;
    entries[1].shape[1] = entries[1].shape[2] = (size_t)1 << 40;
    expect_error(context, PLX_ERROR_VALUE, "impossible", plx_safetensors_write(context, path, entries, 2, NULL, NULL));
    expect_error(context, PLX_ERROR_FILE, "/dev/full': No space",
                 plx_safetensors_write(context, "/dev/full", entries, 1, NULL, NULL));
    expect_error(context, PLX_ERROR_FILE, "no/such",
                 plx_safetensors_write(context, test_path("no/such"), entries, 1, NULL, NULL));
}

#define TENSOR(dtype, shape, offsets) "{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"

/* Headers before 16 bytes of data, and what must be said about each; NULL: it is fine. */
static const struct {
    const char *header, *message;
} attacks[] = {
    {"{\"a\":" TENSOR("\"F32\"", "[4]", "[0,16]") "}", NULL},
    {"{\"a\":" TENSOR("\"F32\"", "[2,2]", "[0,16]") ",\"__metadata__\":{\"format\":\"pt\"}}   ", NULL},
    {"{\"b\":" TENSOR("\"F64\"", "[1]", "[8,16]") ",\"a\":" TENSOR("\"I64\"", "[]", "[0,8]") "}", NULL},
    {"{\"e\":" TENSOR("\"F32\"", "[0]", "[16,16]") ",\"a\":" TENSOR("\"U8\"", "[16]", "[0,16]") "}", NULL},
    {"{\"a\":" TENSOR("\"F32\"", "[0,9223372036854775807]", "[0,0]") ",\"b\":" TENSOR("\"F4\"", "[32]", "[0,16]") "}",
     NULL},
    {"", "not the JSON"},
    {"{", "not the JSON"},
    {"null", "not the JSON"},
    {"[]", "not an object"},
    {"{} x", "not the JSON"},
    {"{}", "16 follow"},
    {"{\"a\":1}", "not described"},
    {"{\"a\":{}}", "no dtype"},
    {"{\"a\":" TENSOR("1", "[4]", "[0,16]") "}", "no dtype"},
    {"{\"a\":" TENSOR("\"F33\"", "[4]", "[0,16]") "}", "unknown dtype 'F33'"},
    {"{\"a\":" TENSOR("\"F32\"", "4", "[0,16]") "}", "no shape"},
    {"{\"a\":" TENSOR("\"F32\"", "[4.0]", "[0,16]") "}", "not a size"},
    {"{\"a\":" TENSOR("\"F32\"", "[-4]", "[0,16]") "}", "not a size"},
    {"{\"a\":" TENSOR("\"F32\"", "[-2,-2]", "[0,16]") "}", "not a size"},
    {"{\"a\":" TENSOR("\"F32\"", "[9223372036854775808]", "[0,16]") "}", "not the JSON"},
    {"{\"a\":" TENSOR("\"F32\"", "[9223372036854775807]", "[0,16]") "}", "does not take"},
    {"{\"a\":" TENSOR("\"F32\"", "[4611686018427387904,4]", "[0,16]") "}", "larger than any memory"},
    {"{\"a\":" TENSOR("\"F32\"", "[4294967296,4294967296]", "[0,0]") "}", "larger than any memory"},
    {"{\"a\":" TENSOR("\"F32\"", "[4611686018427387904]", "[0,0]") "}", "does not take"}, /* x 32 bits = 0 mod 2^64 */
    {"{\"a\":" TENSOR("\"F32\"", "[1,1,1,1,1,1,1,1,4]", "[0,16]") "}", "9 dimensions"},
    {"{\"a\":" TENSOR("\"F32\"", "[3]", "[0,16]") "}", "does not take"},
    {"{\"a\":" TENSOR("\"F4\"", "[3]", "[0,1]") "}", "does not take"},
    {"{\"a\":" TENSOR("\"F32\"", "[4]", "[0]") "}", "two whole numbers"},
    {"{\"a\":" TENSOR("\"F32\"", "[4]", "[0,16,16]") "}", "two whole numbers"},
    {"{\"a\":" TENSOR("\"F32\"", "[4]", "[0,\"16\"]") "}", "two whole numbers"},
    {"{\"a\":" TENSOR("\"F32\"", "[4]", "[16,0]") "}", "cut off"},
    {"{\"a\":" TENSOR("\"F32\"", "[4]", "[-16,0]") "}", "cut off"},
    {"{\"a\":" TENSOR("\"F32\"", "[8]", "[0,32]") "}", "cut off"},
    {"{\"a\":" TENSOR("\"F32\"", "[4]", "[9223372036854775800,9223372036854775807]") "}", "cut off"},
    {"{\"a\":" TENSOR("\"F32\"", "[2]", "[0,8]") "}", "16 follow"},
    {"{\"a\":" TENSOR("\"F32\"", "[2]", "[8,16]") "}", "gap"},
    {"{\"a\":" TENSOR("\"F32\"", "[1]", "[0,4]") ",\"b\":" TENSOR("\"F32\"", "[2]", "[8,16]") "}", "gap"},
    {"{\"a\":" TENSOR("\"F32\"", "[3]", "[0,12]") ",\"b\":" TENSOR("\"F32\"", "[2]", "[8,16]") "}", "overlap"},
    {"{\"a\":" TENSOR("\"F32\"", "[4]", "[0,16]") ",\"b\":" TENSOR("\"F32\"", "[4]", "[0,16]") "}", "overlap"},
    {"{\"a\":" TENSOR("\"F32\"", "[2]", "[0,8]") ",\"a\":" TENSOR("\"F32\"", "[2]", "[8,16]") "}", "duplicate"},
    {"{\"__metadata__\":[],\"a\":" TENSOR("\"F32\"", "[4]", "[0,16]") "}", "__metadata__ is not"},
    {"{\"__metadata__\":{\"x\":1},\"a\":" TENSOR("\"F32\"", "[4]", "[0,16]") "}", "'x' is not a string"},
    {"{\"a\\u0000b\":" TENSOR("\"F32\"", "[4]", "[0,16]") "}", "not the JSON"},
    {"{\"a\xff\":" TENSOR("\"F32\"", "[4]", "[0,16]") "}", "not the JSON"},
    {"{\"line\\nbreak\":" TENSOR("\"F32\"", "[3]", "[0,16]") "}", "line?break"},
};

static void test_safetensors_attacks(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof attacks / sizeof attacks[0]; i++) {
        const char *header = attacks[i].header;
        if (attacks[i].message == NULL)
            expect_ok(context, plx_safetensors_check_header(context, header, strlen(header), 16));
        else
            expect_error(context, PLX_ERROR_FORMAT, attacks[i].message,
                         plx_safetensors_check_header(context, header, strlen(header), 16));
    }
    /* 200,000 brackets deep */
    size_t depth = 200000;
    char *deep = malloc(depth);
    memset(deep, '[', depth);
    expect_error(context, PLX_ERROR_FORMAT, "not the JSON", plx_safetensors_check_header(context, deep, depth, 16));
    free(deep);
}

static void test_safetensors_files(void **state)
{
    (void)state;
    static const struct {
        unsigned char prefix[8];
        size_t bytes; /* of prefix and "{}" and zeros */
    } bad[] = {
        {{0}, 0},
        {{2}, 7},
        {{3}, 10},
        {{255, 255, 255, 255, 255, 255, 255, 255}, 16},
        {{0, 0, 0, 0, 0, 0, 0, 128}, 16},
        {{248, 255, 255, 255, 255, 255, 255, 255}, 16},
        {{0}, 10},
    };
    plx_safetensors *file;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        unsigned char bytes[16] = {0};
        memcpy(bytes, bad[i].prefix, 8);
        memcpy(bytes + 8, "{}", 2);
        const char *path = test_file("attack", bytes, bad[i].bytes);
        expect_error(context, PLX_ERROR_FORMAT, "attack", plx_safetensors_open(context, path, &file));
        assert_null(file);
    }
    expect_error(context, PLX_ERROR_FILE, "check the name", plx_safetensors_open(context, test_path("none"), &file));
    expect_error(context, PLX_ERROR_FILE, "directory", plx_safetensors_open(context, "/tmp", &file));
    /* A type that Plexus does not compute with: the file opens, the tensor is refused. */
    const char header[] =
        "\x3a\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}    12345678";
    int64_t value;
    const char *path = test_file("integers", header, sizeof header - 1);
    expect_ok(context, plx_safetensors_open(context, path, &file));
    assert_false(plx_safetensors_at(file, 0)->readable);
    expect_error(context, PLX_ERROR_UNSUPPORTED, "I64",
                 plx_safetensors_read(file, plx_safetensors_at(file, 0), &value, 8));
    plx_safetensors_close(file);
}

/* ---- text ---- */

/* Reads all documents as "[document][document]". Returns the status; *text is freed with free. */
static plx_status read_all(const char *path, const plx_text_options *options, char **text, size_t *bytes)
{
    plx_text_reader *reader;
    plx_text_piece piece;
    bool more = true, inside = false;
    size_t used = 0, capacity = 1 << 16;
    *text = malloc(capacity);
    plx_status status = plx_text_open(context, path, options, &reader);
    if (status == PLX_OK) {
        while ((status = plx_text_next(reader, &piece, &more)) == PLX_OK && more) {
            while (used + piece.count + 4 > capacity) *text = realloc(*text, capacity *= 2);
            assert_true(piece.starts == !inside);
            if (piece.starts) (*text)[used++] = '[';
            memcpy(*text + used, piece.bytes, piece.count);
            used += piece.count;
            if (piece.ends) (*text)[used++] = ']';
            inside = !piece.ends;
        }
        assert_true(status != PLX_OK || !inside);
        if (status == PLX_OK) { /* the end stays the end */
            expect_ok(context, plx_text_next(reader, &piece, &more));
            assert_false(more);
        }
        plx_text_close(reader);
    }
    (*text)[used] = '\0';
    *bytes = used;
    return status;
}

static void expect_text(const char *path, const plx_text_options *options, const char *wanted)
{
    char *text;
    size_t bytes;
    expect_ok(context, read_all(path, options, &text, &bytes));
    assert_int_equal(bytes, strlen(wanted));
    assert_memory_equal(text, wanted, bytes);
    free(text);
}

static void expect_text_error(const char *path, plx_status code, const char *message)
{
    char *text;
    size_t bytes;
    expect_error(context, code, message, read_all(path, NULL, &text, &bytes));
    free(text);
}

static const char *test_zstd(const char *name, const void *data, size_t bytes, size_t cut)
{
    size_t bound = ZSTD_compressBound(bytes);
    char *packed = malloc(bound);
    size_t size = ZSTD_compress(packed, bound, data, bytes, 1);
    assert_false(ZSTD_isError(size));
    const char *path = test_file(name, packed, size - cut);
    free(packed);
    return path;
}

static char *make_noise(size_t bytes)
{
    char *noise = malloc(bytes + 3);
    uint32_t x = 1;
    for (size_t i = 0; i < bytes; i++) noise[i] = (char)((x = x * 1664525u + 1013904223u) >> 24);
    return noise;
}

static void test_text_plain(void **state)
{
    (void)state;
    expect_text(test_file("a.txt", "hello\nworld", 11), NULL, "[hello\nworld]");
    expect_text(test_file("a", "\xff\xfe\x80", 3), NULL, "[\xff\xfe\x80]");
    expect_text_error(test_file("b.txt", "", 0), PLX_ERROR_FORMAT, "is empty");
    expect_text_error(test_path("none.txt"), PLX_ERROR_FILE, "check the name");
    expect_text_error("/tmp", PLX_ERROR_FILE, "not a directory");
    /* sizes around the buffer's */
    for (size_t bytes = 131071; bytes <= 3 * 131072; bytes = bytes < 131073 ? bytes + 1 : bytes * 2 - 1) {
        char *noise = make_noise(bytes), *text;
        size_t got;
        expect_ok(context, read_all(test_file("noise", noise, bytes), NULL, &text, &got));
        assert_int_equal(got, bytes + 2);
        assert_memory_equal(text + 1, noise, bytes);
        free(text);
        expect_ok(context, read_all(test_zstd("noise.txt.zst", noise, bytes, 0), NULL, &text, &got));
        assert_int_equal(got, bytes + 2);
        assert_memory_equal(text + 1, noise, bytes);
        free(text);
        free(noise);
    }
}

static void test_text_separator(void **state)
{
    (void)state;
    const plx_text_options options = {.separator = "<|end|>"};
    static const struct {
        const char *text, *wanted;
    } cases[] = {
        {"one", "[one]"},
        {"one\n<|end|>\ntwo\n", "[one\n][two\n]"},
        {"<|end|>\none\n<|end|>\r\n<|end|>\ntwo<|end|>\n<|end|> \n<|end|>", "[one\n][two<|end|>\n<|end|> \n]"},
        {" <|end|>\n<|end|\n<|end|>>\n", "[ <|end|>\n<|end|\n<|end|>>\n]"},
        {"a\n<|end|>\nb\n<|end|>", "[a\n][b\n]"},
        {"a\n<|en", "[a\n<|en]"},
        {"\n<|end|>\n\n", "[\n][\n]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_text(test_file("s.txt", cases[i].text, strlen(cases[i].text)), &options, cases[i].wanted);
    char *text;
    size_t bytes;
    const char *path = test_file("s.txt", "<|end|>\n<|end|>\n", 16);
    expect_error(context, PLX_ERROR_FORMAT, "is empty", read_all(path, &options, &text, &bytes));
    free(text);

    /* Separators at every place of the buffers' edges: documents of 'x', one line each, and of lines without end. */
    for (size_t length = 65520; length < 65560; length++) {
        char *long_text = malloc(3 * length + 64), *wanted = malloc(3 * length + 64);
        size_t n = 0, w = 0;
        for (int document = 0; document < 3; document++) {
            wanted[w++] = '[';
            memset(long_text + n, 'x', length);
            memset(wanted + w, 'x', length);
            n += length;
            w += length;
            wanted[w++] = long_text[n++] = '\n';
            wanted[w++] = ']';
            n += (size_t)sprintf(long_text + n, "<|end|>\n");
        }
        wanted[w] = '\0';
        expect_text(test_file("s.txt", long_text, n), &options, wanted);
        free(long_text);
        free(wanted);
    }
    /* The separator's text within a line is text, wherever the buffer ends. */
    for (size_t length = 65520; length < 65560; length++) {
        char *within = malloc(length + 32);
        within[0] = '[';
        memset(within + 1, 'x', length);
        strcpy(within + 1 + length, "<|end|>\ny]");
        expect_text(test_file("s.txt", within + 1, length + 9), &options, within);
        free(within);
    }
    const plx_text_options bad = {.separator = "a\nb"};
    plx_text_reader *reader;
    expect_error(context, PLX_ERROR_VALUE, "one line", plx_text_open(context, path, &bad, &reader));
}

static void test_text_zstd(void **state)
{
    (void)state;
    char *noise = make_noise(400000), *text;
    size_t got, first_bytes, second_bytes;
    /* two frames */
    char *first = test_read(test_zstd("first.zst", noise, 300000, 0), &first_bytes);
    char *second = test_read(test_zstd("second.zst", noise + 300000, 100000, 0), &second_bytes);
    first = realloc(first, first_bytes + second_bytes);
    memcpy(first + first_bytes, second, second_bytes);
    expect_ok(context, read_all(test_file("both.zst", first, first_bytes + second_bytes), NULL, &text, &got));
    assert_int_equal(got, 400002);
    assert_memory_equal(text + 1, noise, 400000);
    free(text);
    expect_text_error(test_file("cut.zst", first, first_bytes + 20), PLX_ERROR_FORMAT, "cut off");
    free(first);
    free(second);
    for (size_t cut = 1; cut < 400000; cut = cut * 3 + 1)
        expect_text_error(test_zstd("cut.txt.zst", noise, 400000, cut), PLX_ERROR_FORMAT, "cut off");
    expect_text_error(test_file("plain.zst", noise, 1000), PLX_ERROR_FORMAT, "no zstd file");
    expect_text_error(test_file("nothing.zst", "", 0), PLX_ERROR_FORMAT, "is empty");
    expect_text_error(test_zstd("void.zst", "", 0, 0), PLX_ERROR_FORMAT, "is empty");
    free(noise);
}

static void test_text_json(void **state)
{
    (void)state;
    const char lines[] =
        "{\"text\":\"one\"}\n\n{\"id\":3,\"text\":\"t\\u00e9\\n\\\"o\\\"\"}\r\n{\"text\":\"\"}\n{\"text\":\"end\"}";
    const char *wanted = "[one][t\xc3\xa9\n\"o\"][end]";
    expect_text(test_file("a.jsonl", lines, sizeof lines - 1), NULL, wanted);
    expect_text(test_zstd("a.jsonl.zst", lines, sizeof lines - 1, 0), NULL, wanted);
    const plx_text_options body = {.field = "body", .separator = "ignored here"};
    expect_text(test_file("b.jsonl", "{\"text\":1,\"body\":\"x\"}\n", 22), &body, "[x]");
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"{\"text\":\"a\"}\n{\"text\":\"b\"\n", "bad.jsonl:2: no JSON"},
        {"\n\n{\"text\":\"\xff\"}\n", "bad.jsonl:3: no JSON"},
        {"{\"text\":\"a\",\"text\":\"b\"}", "bad.jsonl:1: no JSON: duplicate"},
        {"{\"text\":1}", "bad.jsonl:1: no text under 'text'"},
        {"{\"body\":\"a\"}", "text_field"},
        {"\"text\"", "bad.jsonl:1: no JSON"},
        {"[\"text\"]", "bad.jsonl:1: no text"},
        {"{\"text\":\"\"}\n", "is empty"},
        {" \n\t\n", "is empty"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        expect_text_error(test_file("bad.jsonl", bad[i].text, strlen(bad[i].text)), PLX_ERROR_FORMAT, bad[i].message);
    /* NUL is text too */
    char *text;
    size_t bytes;
    expect_ok(context, read_all(test_file("nul.jsonl", "{\"text\":\"a\\u0000b\"}", 19), NULL, &text, &bytes));
    assert_int_equal(bytes, 5);
    assert_memory_equal(text, "[a\0b]", 5);
    free(text);
}

static void test_text_long_lines(void **state)
{
    (void)state;
    size_t bytes = PLX_JSON_LINE_MOST + 1, got;
    char *line = malloc(bytes), *text;
    memset(line, 'x', bytes);
    memcpy(line, "{\"text\":\"", 9);
    line[999998] = '"';
    line[999999] = '}';
    expect_ok(context, read_all(test_file("long.jsonl", line, 1000000), NULL, &text, &got));
    assert_int_equal(got, 1000000 - 11 + 2);
    free(text);
    memset(line, ' ', bytes);
    expect_text_error(test_zstd("long.jsonl.zst", line, bytes, 0), PLX_ERROR_FORMAT,
                      "long.jsonl.zst:1: the line is longer");
    free(line);
}

/* Every allocation fails once: always an error, nothing leaked. */
static void test_allocation_failures(void **state)
{
    (void)state;
    const plx_text_options options = {.separator = "--"};
    float one = 1;
    struct {
        const void *bytes;
        size_t size;
    } source = {&one, sizeof one};
    plx_safetensors_entry entry = {
        .name = "a", .type = PLX_F32, .rank = 1, .shape = {1}, .fetch = fetch_bytes, .user = &source};
    test_zstd("f.txt.zst", "a\n--\nb", 6, 0);
    test_file("f.jsonl", "{\"text\":\"a\"}", 12);
    for (long fail_at = 1, finished = 0; !finished; fail_at++) {
        test_allocator allocator = {0};
        plx_context *own = test_counting_context(&allocator);
        long before = allocator.held;
        allocator.fail_at = allocator.calls + fail_at;
        plx_status status = PLX_OK;
        char *aside = NULL;
        plx_safetensors *file = NULL;
        const char *paths[] = {test_path("f.txt.zst"), test_path("f.jsonl")};
        for (int i = 0; i < 2 && status == PLX_OK; i++) {
            plx_text_reader *reader = NULL;
            plx_text_piece piece;
            bool more = true;
            status = plx_text_open(own, paths[i], &options, &reader);
            while (status == PLX_OK && more) status = plx_text_next(reader, &piece, &more);
            plx_text_close(reader);
        }
        if (status == PLX_OK) status = plx_directory_begin(own, test_path("f.d"), &aside);
        if (status == PLX_OK) status = plx_safetensors_write(own, test_path("f.safetensors"), &entry, 1, NULL, NULL);
        if (status == PLX_OK) status = plx_safetensors_open(own, test_path("f.safetensors"), &file);
        plx_safetensors_close(file);
        if (aside != NULL && status == PLX_OK)
            status = plx_directory_commit(own, aside, test_path("f.d"));
        else
            plx_directory_abandon(own, aside);
        finished = status == PLX_OK;
        if (!finished && status != PLX_ERROR_MEMORY)
            fail_msg("allocation %ld: %s", fail_at, plx_context_error(own)->message);
        assert_int_equal(allocator.held, before);
        plx_context_free(own);
        assert_true(fail_at < 200);
        expect_ok(context, plx_directory_remove(context, test_path("f.d")));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_read_and_write),
        cmocka_unit_test(test_file_errors),
        cmocka_unit_test(test_file_on_full_disk),
        cmocka_unit_test(test_directory_commit),
        cmocka_unit_test(test_directory_remove),
        cmocka_unit_test(test_safetensors_round_trip),
        cmocka_unit_test(test_safetensors_writing_fails),
        cmocka_unit_test(test_safetensors_attacks),
        cmocka_unit_test(test_safetensors_files),
        cmocka_unit_test(test_text_plain),
        cmocka_unit_test(test_text_separator),
        cmocka_unit_test(test_text_zstd),
        cmocka_unit_test(test_text_json),
        cmocka_unit_test(test_text_long_lines),
        cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests(tests, open_context, close_context);
}
