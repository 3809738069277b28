/* bench_report.c - measurements as one HTML file: a roofline (SVG) and a table. */
#include "lab/bench.h"

#include "io/files.h"
#include "lab/html.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct plx_bench_row {
    plx_bench_result result;
    char op[64]; /* results do not outlive their case */
};

plx_status plx_bench_report_add(plx_bench_report *report, const plx_bench_result *result)
{
    size_t size = sizeof *report->rows;
    plx_bench_row *grown = plx_grow(report->context, report->rows, report->count * size, (report->count + 1) * size);
    if (grown == NULL) return plx_context_error(report->context)->code;
    report->rows = grown;
    grown[report->count].result = *result;
    snprintf(grown[report->count++].op, sizeof grown->op, "%s", result->op);
    return PLX_OK;
}

void plx_bench_report_free(plx_bench_report *report)
{
    plx_free(report->context, report->rows);
    *report = (plx_bench_report){0};
}

void plx_bench_shape_text(const plx_bench_shape *shape, char *text, size_t bytes)
{
    size_t used = 0;
    *text = '\0';
#define SIZE_TEXT(name)                                                                                                \
    if (shape->name != 0 && used < bytes) {                                                                            \
        int more = snprintf(text + used, bytes - used, "%s%s=%zu", used > 0 ? " " : "", #name, shape->name);           \
        used += more > 0 ? (size_t)more : 0;                                                                           \
    }
    PLX_BENCH_SIZES(SIZE_TEXT)
#undef SIZE_TEXT
}

/* ---- the roofline: GFLOP/s over flops a byte, both on logarithmic axes ---- */

enum { WIDTH = 900, HEIGHT = 520, LEFT = 70, RIGHT = 120, TOP = 20, BOTTOM = 50 };
typedef struct axes {
    double x0, x1, y0, y1;
} axes; /* powers of ten */

static double across(const axes *a, double x)
{
    return LEFT + (log10(x) - a->x0) / (a->x1 - a->x0) * (WIDTH - LEFT - RIGHT);
}
static double down(const axes *a, double y)
{
    return HEIGHT - BOTTOM - (log10(y) - a->y0) / (a->y1 - a->y0) * (HEIGHT - TOP - BOTTOM);
}

static bool on_roofline(const plx_bench_result *r) { return r->timed && r->gflops > 0 && r->gbs > 0; }

static axes find_axes(const plx_bench_report *report)
{
    axes a = {0, 1, 0, 1};
    for (size_t i = 0; i < report->count; i++) {
        const plx_bench_result *r = &report->rows[i].result;
        if (!on_roofline(r)) continue;
        double x = log10(r->gflops / r->gbs), y = log10(r->gflops);
        a.x0 = fmin(a.x0, floor(x));
        a.x1 = fmax(a.x1, ceil(x));
        a.y0 = fmin(a.y0, floor(y));
        a.y1 = fmax(a.y1, ceil(log10(r->peak_gflops)));
    }
    return a;
}

static void put_grid(FILE *out, const axes *a)
{
    for (double power = a->x0; power <= a->x1; power++)
        fprintf(out, "<path d='M%.1f %d V%d' stroke='#ddd'/><text x='%.1f' y='%d' text-anchor=middle>%g</text>\n",
                across(a, pow(10, power)), TOP, HEIGHT - BOTTOM, across(a, pow(10, power)), HEIGHT - BOTTOM + 18,
                pow(10, power));
    for (double power = a->y0; power <= a->y1; power++)
        fprintf(out, "<path d='M%d %.1f H%d' stroke='#ddd'/><text x='%d' y='%.1f' text-anchor=end>%g</text>\n", LEFT,
                down(a, pow(10, power)), WIDTH - RIGHT, LEFT - 6, down(a, pow(10, power)) + 4, pow(10, power));
    fprintf(out,
            "<text x='%d' y='%d' text-anchor=middle>flops a byte of the arrays</text>"
            "<text x='16' y='%d' transform='rotate(-90 16 %d)' text-anchor=middle>GFLOP/s</text>\n",
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, HEIGHT / 2, HEIGHT / 2);
}

/* The slope of memory up to a peak, and the peak from there on. */
static void put_roof(FILE *out, const axes *a, const plx_bench_result *r)
{
    double ridge = r->peak_gflops / r->read_gbs, low = pow(10, a->y0) / r->read_gbs;
    double from = fmax(low, pow(10, a->x0)), turn = fmin(fmax(ridge, from), pow(10, a->x1));
    fprintf(out, "<path d='M%.1f %.1f L%.1f %.1f H%d' fill=none stroke='#555'/><text x='%d' y='%.1f'>%s %.0f</text>\n",
            across(a, from), down(a, from * r->read_gbs), across(a, turn),
            down(a, fmin(r->peak_gflops, turn * r->read_gbs)), WIDTH - RIGHT, WIDTH - RIGHT + 4,
            down(a, r->peak_gflops) + 4, r->impl, r->peak_gflops);
}

static const char *colour_of(const char *impl)
{
    static const char *const colours[] = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#e377c2", "#8c564b"};
    static const char *const names[] = {"avx512", "amx", "avx2", "portable", "blas", "bf16"};
    size_t i = 0;
    while (i < sizeof names / sizeof *names && strcmp(names[i], impl) != 0) i++;
    return colours[i];
}

static void put_roofline(FILE *out, const plx_bench_report *report)
{
    axes a = find_axes(report);
    fprintf(out, "<svg viewBox='0 0 %d %d' font-size=13 font-family=sans-serif>\n", WIDTH, HEIGHT);
    put_grid(out, &a);
    for (size_t i = 0; i < report->count; i++) {
        const plx_bench_result *r = &report->rows[i].result;
        bool drawn = !on_roofline(r);
        for (size_t k = 0; k < i && !drawn; k++)
            drawn = on_roofline(&report->rows[k].result) && report->rows[k].result.peak_gflops == r->peak_gflops;
        if (!drawn) put_roof(out, &a, r);
    }
    for (size_t i = 0; i < report->count; i++) {
        const plx_bench_result *r = &report->rows[i].result;
        if (!on_roofline(r)) continue;
        char shape[160];
        plx_bench_shape_text(&r->shape, shape, sizeof shape);
        fprintf(out,
                "<circle cx='%.1f' cy='%.1f' r=5 fill='%s' fill-opacity='.75'><title>%zu: %s %s, %s: %.1f GFLOP/s"
                "</title></circle>\n",
                across(&a, r->gflops / r->gbs), down(&a, r->gflops), colour_of(r->impl), i + 1, report->rows[i].op,
                shape, r->impl, r->gflops);
    }
    fputs("</svg>\n", out);
}

/* ---- the table ---- */

static void put_row(FILE *out, const plx_bench_report *report, size_t i)
{
    const plx_bench_result *r = &report->rows[i].result;
    char shape[160];
    bool first = i == 0 || strcmp(report->rows[i].op, report->rows[i - 1].op) != 0;
    plx_bench_shape_text(&r->shape, shape, sizeof shape);
    if (first)
        fprintf(out, "<tr><th colspan=10>%s <span class=note>%s%s</span></th></tr>\n", report->rows[i].op,
                r->convention != NULL ? "flops: " : "bytes: each array once",
                r->convention != NULL ? r->convention : "");
    fprintf(out, "<tr><td>%s</td><td>%zu</td><td style='color:%s'>%s</td>", shape, i + 1, colour_of(r->impl), r->impl);
    if (r->timed)
        fprintf(out, "<td>%.3f</td><td>%.3f</td><td>%.1f</td><td>%.0f%%</td><td>%.1f</td><td>%.0f%%</td>",
                1e3 * r->best, 1e3 * r->median, r->gflops, 100 * r->peak_fraction, r->gbs, 100 * r->bandwidth_fraction);
    else
        fprintf(out, "<td colspan=6>%s</td>", r->ok ? "right, not timed" : "<b>wrong: no speed</b>");
    fprintf(out, "<td>%.1e</td></tr>\n", r->error);
}

static void put_report(FILE *out, const plx_bench_report *report, const plx_machine *machine, const char *command)
{
    plx_html_begin(out, "Plexus measurements");
    fputs("<p>Made by</p><pre>", out);
    plx_html_text(out, command);
    fputs("</pre>\n<p>", out);
    plx_html_text(out, machine->cpu);
    fprintf(out,
            ", level %s, %d threads, Plexus %s. Measured here: f32 peak %.0f GFLOP/s, bf16 tiles %.0f GFLOP/s, reading "
            "memory %.1f GB/s. Each result was checked against the reference in the same run; the roofs are the "
            "measured peaks. Points above the slope work from caches.</p>\n",
            machine->level, machine->threads, PLX_VERSION, machine->peak_gflops, machine->tile_gflops,
            machine->read_gbs);
    put_roofline(out, report);
    fputs("<div style=overflow-x:auto><table><tr><th>shape</th><th>point</th><th>implementation</th><th>best ms</th><th>median "
          "ms</th><th>GFLOP/s</th><th>of peak</th><th>GB/s</th><th>of memory</th><th>error</th></tr>\n",
          out);
    for (size_t i = 0; i < report->count; i++) put_row(out, report, i);
    fputs("</table></div></html>\n", out);
}

plx_status plx_bench_report_write(const plx_bench_report *report, const char *path, const char *command)
{
    plx_context *context = report->context;
    plx_machine machine;
    char *text = NULL;
    size_t bytes = 0;
    PLX_TRY(plx_machine_measure(context, &machine));
    FILE *out = open_memstream(&text, &bytes);
    if (out == NULL) return plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the report");
    put_report(out, report, &machine, command);
    plx_status status = PLX_OK;
    if (fclose(out) != 0) status = plx_fail(context, PLX_ERROR_MEMORY, "no memory left for the report");
    if (status == PLX_OK) status = plx_file_write(context, path, text, bytes);
    free(text);
    return status;
}
