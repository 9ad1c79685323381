/* test_events.c - the writer of TensorBoard's event files gives the bytes that TensorBoard's own gives
 * (tests/golden/ make_events.py). */
#include "../../lib/train/train_private.h"
#include "check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *lines, *want;
static size_t nlines, nwant;

static void the_bytes_are_those_of_tensorboard(void **state)
{
    (void)state;
    kd_buf got = {0};
    kd__events_begin(&got, 1700000000);
    OK(kd__events_lines(&got, lines, nlines, err));
    assert_int_equal(got.len, nwant);
    for (size_t i = 0; i < nwant; i++)
        if (got.text[i] != want[i])
            fail_msg("byte %zu is %02x, wanted %02x", i, got.text[i] & 255, want[i] & 255);
    kd_buf_release(&got);
}

static void lines_may_come_one_by_one(void **state)
{
    (void)state;
    kd_buf got = {0};
    kd__events_begin(&got, 1700000000);
    for (char *line = lines; *line; line = strchr(line, '\n') + 1)
        OK(kd__events_lines(&got, line, (size_t)(strchr(line, '\n') + 1 - line), err));
    assert_int_equal(got.len, nwant);
    assert_memory_equal(got.text, want, nwant);
    kd_buf_release(&got);
}

static void half_a_line_is_refused(void **state)
{
    (void)state;
    kd_buf got = {0};
    FAILS(kd__events_lines(&got, lines, 40, err), KD_ECORRUPT, "not valid JSON: {\"step\": 5");
    kd_buf_release(&got);
}

static int read_golden(void **state)
{
    (void)state;
    return kd_file_read("tests/golden/events.jsonl", 1 << 20, &lines, &nlines, NULL) ||
           kd_file_read("tests/golden/events.tfevents", 1 << 20, &want, &nwant, NULL);
}

static int free_golden(void **state)
{
    (void)state;
    free(lines);
    free(want);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bytes_are_those_of_tensorboard),
        cmocka_unit_test(lines_may_come_one_by_one),
        cmocka_unit_test(half_a_line_is_refused),
    };
    return cmocka_run_group_tests(tests, read_golden, free_golden);
}
