/* What source files are read, and how hostile ones are refused. */
#include "data_fixture.h"

#include <sys/stat.h>

static const uint8_t image[2 * 6] = {1, 2, 3, 4, 5, 6, 250, 251, 252, 253, 254, 255};

static size_t small_idx(uint8_t *out)
{
    return fx_idx(out, 0x08, 3, (uint32_t[]){2, 2, 3}, image, sizeof(image));
}

static void is_the_image(kd_array *a)
{
    assert_int_equal(a->dtype, KD_U8);
    assert_int_equal(a->rows, 2);
    assert_int_equal(a->ndims, 2);
    assert_int_equal(a->dims[0], 2);
    assert_int_equal(a->dims[1], 3);
    assert_int_equal(kd_array_row_bytes(a), 6);
    assert_memory_equal(a->data, image, sizeof(image));
    kd_array_release(a);
}

/* ---- IDX and gzip ------------------------------------------------------------------------- */

static void idx_is_read_plain_and_gzipped_whatever_its_name(void **state)
{
    (void)state;
    uint8_t file[64];
    size_t n = small_idx(file);
    kd_array a;
    OK(kd_array_read(&a, fx_write("plain.gz", file, n), NULL, &fx_err));
    is_the_image(&a);
    OK(kd_array_read(&a, fx_write_gz("zipped", file, n), NULL, &fx_err));
    is_the_image(&a);
}

static void idx_values_come_in_host_order(void **state)
{
    (void)state;
    static const uint8_t be[] = {0x01, 0x02, 0xFF, 0xFE, 0x40, 0x49, 0x0F, 0xDB};
    uint8_t file[64];
    kd_array a;
    OK(kd_array_read(&a, fx_write("i8", file, fx_idx(file, 0x09, 1, (uint32_t[]){2}, "\xFF\x7F", 2)), NULL,
                     &fx_err));
    assert_int_equal(a.dtype, KD_I8);
    assert_int_equal(a.ndims, 0);
    assert_int_equal(((int8_t *)a.data)[0], -1);
    kd_array_release(&a);
    OK(kd_array_read(&a, fx_write("i16", file, fx_idx(file, 0x0B, 1, (uint32_t[]){2}, be, 4)), NULL,
                     &fx_err));
    assert_int_equal(((int16_t *)a.data)[0], 0x0102);
    assert_int_equal(((int16_t *)a.data)[1], -2);
    kd_array_release(&a);
    OK(kd_array_read(&a, fx_write("i32", file, fx_idx(file, 0x0C, 1, (uint32_t[]){1}, be, 4)), NULL,
                     &fx_err));
    assert_int_equal(((int32_t *)a.data)[0], 0x0102FFFE);
    kd_array_release(&a);
    OK(kd_array_read(&a, fx_write("f32", file, fx_idx(file, 0x0D, 1, (uint32_t[]){1}, be + 4, 4)), NULL,
                     &fx_err));
    assert_true(((float *)a.data)[0] == 3.14159274f);
    kd_array_release(&a);
    OK(kd_array_read(&a,
                     fx_write("f64", file, fx_idx(file, 0x0E, 1, (uint32_t[]){1}, "\x3F\xF8\0\0\0\0\0\0", 8)),
                     NULL, &fx_err));
    assert_true(((double *)a.data)[0] == 1.5);
    kd_array_release(&a);
}

static void idx_cut_at_any_byte_is_refused(void **state)
{
    (void)state;
    uint8_t file[64];
    size_t n = small_idx(file);
    kd_array a;
    for (size_t cut = 0; cut < n; cut++) {
        FAILS(kd_array_read(&a, fx_write("cut", file, cut), NULL, &fx_err), KD_ECORRUPT, "/cut: ");
        assert_null(a.data);
        FAILS(kd_array_read(&a, fx_write_gz("cutgz", file, cut), NULL, &fx_err), KD_ECORRUPT, "/cutgz: ");
    }
    FAILS(kd_array_read(&a, fx_write("cut", file, n - 1), NULL, &fx_err), KD_ECORRUPT,
          "/cut: truncated: header says 2 rows of 6 bytes, file holds 1");
    FAILS(kd_array_read(&a, fx_write_gz("cut", file, n - 7), NULL, &fx_err), KD_ECORRUPT,
          "/cut: truncated: header says 2 rows of 6 bytes, file holds 0");
}

static void gzip_cut_at_any_byte_is_refused(void **state)
{
    (void)state;
    uint8_t file[64], *gz;
    size_t n = small_idx(file), size;
    kd_array a;
    gz = fx_gzip(file, n, &size);
    for (size_t cut = 0; cut < size; cut++)
        FAILS(kd_array_read(&a, fx_write("cut", gz, cut), NULL, &fx_err), KD_ECORRUPT, "/cut: ");
    FAILS(kd_array_read(&a, fx_write("cut", gz, size - 1), NULL, &fx_err), KD_ECORRUPT, "cut off at byte");
    gz[size - 5] ^= 1; // the trailer's CRC
    FAILS(kd_array_read(&a, fx_write("crc", gz, size), NULL, &fx_err), KD_ECORRUPT, "damaged gzip data");
    free(gz);
}

static void trailing_bytes_are_refused(void **state)
{
    (void)state;
    uint8_t file[64], *gz;
    size_t n = small_idx(file), size;
    kd_array a;
    file[n] = 0;
    FAILS(kd_array_read(&a, fx_write("more", file, n + 1), NULL, &fx_err), KD_ECORRUPT,
          "1 trailing bytes: expected the end behind 2 rows of 6 bytes");
    FAILS(kd_array_read(&a, fx_write_gz("more", file, n + 1), NULL, &fx_err), KD_ECORRUPT, "trailing bytes");
    gz = fx_gzip(file, n, &size);
    gz[size] = 'x';
    FAILS(kd_array_read(&a, fx_write("more", gz, size + 1), NULL, &fx_err), KD_ECORRUPT,
          "behind the end of the gzip data");
    free(gz);
}

static void gzip_members_are_joined(void **state)
{
    (void)state;
    uint8_t file[64], both[400], *one, *two;
    size_t n = small_idx(file), n1, n2;
    kd_array a;
    one = fx_gzip(file, 11, &n1);
    two = fx_gzip(file + 11, n - 11, &n2);
    memcpy(both, one, n1);
    memcpy(both + n1, two, n2);
    OK(kd_array_read(&a, fx_write("both", both, n1 + n2), NULL, &fx_err));
    is_the_image(&a);
    free(one);
    free(two);
}

static void wrong_magic_and_types_are_refused_by_name(void **state)
{
    (void)state;
    uint8_t file[64];
    size_t n = small_idx(file);
    kd_array a;
    file[2] = 0x0A;
    FAILS(kd_array_read(&a, fx_write("t", file, n), NULL, &fx_err), KD_ECORRUPT, "IDX type 0x0a is unknown");
    file[2] = 0x08, file[3] = 0;
    FAILS(kd_array_read(&a, fx_write("t", file, n), NULL, &fx_err), KD_ECORRUPT, "0 axes");
    file[3] = 8;
    FAILS(kd_array_read(&a, fx_write("t", file, n), NULL, &fx_err), KD_ECORRUPT, "8 axes");
    file[0] = 'P';
    FAILS(kd_array_read(&a, fx_write("t", file, n), NULL, &fx_err), KD_ECORRUPT,
          "begins with 50 00, expected IDX");
    FAILS(kd_array_read(&a, fx_write("t", file, 0), NULL, &fx_err), KD_ECORRUPT, "/t: empty");
    FAILS(kd_array_read(&a, fx_path("none"), NULL, &fx_err), KD_ENOTFOUND, "/none: cannot open");
    FAILS(kd_array_read(&a, fx_dir, NULL, &fx_err), KD_EIO, "folder");
    small_idx(file);
    FAILS(kd_array_read(&a, fx_write("t", file, n), "x", &fx_err), KD_EUSAGE, "only CSV and TSV");
    memset(file + 4, 0, 4);
    FAILS(kd_array_read(&a, fx_write("t", file, n), NULL, &fx_err), KD_ECORRUPT, "0 rows");
    small_idx(file);
    memset(file + 8, 0, 4);
    FAILS(kd_array_read(&a, fx_write("t", file, n), NULL, &fx_err), KD_ECORRUPT,
          "axis 1 of its header has length 0");
}

static void sizes_are_not_believed(void **state)
{
    (void)state;
    const uint32_t huge = 0xFFFFFFFF;
    uint8_t file[64];
    size_t n = fx_idx(file, 0x0E, 5, (uint32_t[]){huge, huge, huge, huge, huge}, image, 4);
    kd_array a;
    FAILS(kd_array_read(&a, fx_write("t", file, n), NULL, &fx_err), KD_ECORRUPT, "more than 2^64 bytes");
    FAILS(kd_array_read(&a, fx_write_gz("t", file, n), NULL, &fx_err), KD_ECORRUPT, "more than 2^64 bytes");
    n = fx_idx(file, 0x08, 2, (uint32_t[]){huge, 1u << 20}, image, 4);
    FAILS(kd_array_read(&a, fx_write("t", file, n), NULL, &fx_err), KD_ECORRUPT,
          "truncated: header says 4294967295 rows of 1048576 bytes, file holds 0");
    FAILS(kd_array_read(&a, fx_write_gz("t", file, n), NULL, &fx_err), KD_ELIMIT,
          "the limit is 17179869184 bytes");
    n = fx_idx(file, 0x08, 2, (uint32_t[]){8192, 1u << 20}, image, 4); // 8 GiB, under the limit
    size_t before = kd_peak_rss();
    FAILS(kd_array_read(&a, fx_write_gz("t", file, n), NULL, &fx_err), KD_ECORRUPT, "truncated");
    assert_true(kd_peak_rss() - before < (64u << 20));
}

static void a_pipe_is_read_like_a_file(void **state)
{
    (void)state;
    uint8_t file[64];
    size_t n = small_idx(file);
    kd_array a;
    const char *fifo = fx_path("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    for (size_t len = n - 1; len <= n; len++) {
        if (!fork()) {
            FILE *f = fopen(fifo, "wb");
            for (size_t i = 0; i < len; i++) fwrite(file + i, 1, 1, f), fflush(f);
            _exit(fclose(f));
        }
        if (len < n)
            FAILS(kd_array_read(&a, fifo, NULL, &fx_err), KD_ECORRUPT, "truncated");
        else
            OK(kd_array_read(&a, fifo, NULL, &fx_err));
    }
    is_the_image(&a);
}

/* ---- npy ---------------------------------------------------------------------------------- */

static kd_status npy(kd_array *a, const char *header, const void *data, size_t len)
{
    static uint8_t file[70000];
    return kd_array_read(a, fx_write("a.npy", file, fx_npy(file, header, data, len)), NULL, &fx_err);
}

static void npy_of_each_dtype_is_read(void **state)
{
    (void)state;
    static const struct {
        const char *descr;
        kd_dtype dtype;
        int size;
        bool swapped;
    } cases[] = {{"|u1", KD_U8, 1, 0},  {"|b1", KD_U8, 1, 0},  {"|i1", KD_I8, 1, 0},  {"<u2", KD_U16, 2, 0},
                 {"<i2", KD_I16, 2, 0}, {"<u4", KD_U32, 4, 0}, {"<i4", KD_I32, 4, 0}, {"<u8", KD_U64, 8, 0},
                 {"<i8", KD_I64, 8, 0}, {"<f2", KD_F16, 2, 0}, {"<f4", KD_F32, 4, 0}, {"<f8", KD_F64, 8, 0},
                 {">i2", KD_I16, 2, 1}, {">f4", KD_F32, 4, 1}, {">f8", KD_F64, 8, 1}};
    const uint8_t data[32] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    for (size_t i = 0; i < KD_COUNT(cases); i++) {
        char header[128];
        kd_array a;
        snprintf(header, sizeof(header), "{'descr': '%s', 'fortran_order': False, 'shape': (2, 1), }   \n",
                 cases[i].descr);
        OK(npy(&a, header, data, 2u * (unsigned)cases[i].size));
        assert_int_equal(a.dtype, cases[i].dtype);
        assert_int_equal(a.rows, 2);
        assert_int_equal(a.ndims, 1);
        for (int b = 0; b < 2 * cases[i].size; b++) {
            int from = cases[i].swapped
                           ? b / cases[i].size * cases[i].size + cases[i].size - 1 - b % cases[i].size
                           : b;
            assert_int_equal(((uint8_t *)a.data)[b], data[from]);
        }
        kd_array_release(&a);
    }
}

static void npy_header_may_be_written_differently(void **state)
{
    (void)state;
    kd_array a;
    OK(npy(&a, "{\"shape\":(2,),\"descr\":\"|u1\",\"fortran_order\":False}", image, 2));
    assert_int_equal(a.rows, 2);
    assert_int_equal(a.ndims, 0);
    kd_array_release(&a);
    uint8_t file[200];
    const char *header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2,2,3)}\n";
    for (int version = 2; version <= 3; version++) {
        memcpy(file, "\x93NUMPY", 6);
        file[6] = (uint8_t)version, file[7] = 0;
        memcpy(file + 8, (uint8_t[]){(uint8_t)strlen(header), 0, 0, 0}, 4);
        memcpy(file + 12, header, strlen(header));
        memcpy(file + 12 + strlen(header), image, sizeof(image));
        OK(kd_array_read(&a, fx_write("v.npy", file, 12 + strlen(header) + sizeof(image)), NULL, &fx_err));
        is_the_image(&a);
        OK(kd_array_read(&a, fx_write_gz("v.npy.gz", file, 12 + strlen(header) + sizeof(image)), NULL,
                         &fx_err));
        is_the_image(&a);
    }
}

static void npy_outside_the_grammar_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        kd_status code;
        const char *text;
    } cases[] = {
        {"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", KD_EUNSUPPORTED, "pickle"},
        {"{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2,)}", KD_EUNSUPPORTED, "structured"},
        {"{'descr': '<U4', 'fortran_order': False, 'shape': (2,)}", KD_EUNSUPPORTED,
         "dtype '<U4' is not supported"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (2,)}", KD_EUNSUPPORTED, "'<c8'"},
        {"{'descr': '|i4', 'fortran_order': False, 'shape': (2,)}", KD_EUNSUPPORTED, "'|i4'"},
        {"{'descr': '', 'fortran_order': False, 'shape': (2,)}", KD_EUNSUPPORTED, "dtype ''"},
        {"{'descr': '|u1', 'fortran_order': True, 'shape': (2,1)}", KD_EUNSUPPORTED, "Fortran"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': ()}", KD_ECORRUPT, "no axis of rows"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (0,)}", KD_ECORRUPT, "0 rows"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (2,0)}", KD_ECORRUPT, "axis 1"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (-2,)}", KD_ECORRUPT, "a length"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (2,,)}", KD_ECORRUPT, "a length"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': 2}", KD_ECORRUPT, "'('"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (2 3)}", KD_ECORRUPT, "',' or ')'"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1)}", KD_EUNSUPPORTED,
         "more than 7 axes"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (18446744073709551616,)}", KD_ECORRUPT,
         "longer than 2^64"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 9223372036854775808)}", KD_ECORRUPT,
         "longer than 2^63"},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296,4294967296)}", KD_ECORRUPT,
         "2^64 bytes"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (3,)}", KD_ECORRUPT,
         "header says 3 rows of 1 bytes, file holds 2"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}", KD_ECORRUPT, "1 trailing bytes"},
        {"{'descr': '|u1', 'fortran_order': 0, 'shape': (2,)}", KD_ECORRUPT, "True or False"},
        {"{'descr': '|u1', 'shape': (2,)}", KD_ECORRUPT, "no 'fortran_order'"},
        {"{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (2,)}", KD_ECORRUPT,
         "key 'descr' twice"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (2,), 'x': 1}", KD_ECORRUPT, "unknown key 'x'"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (2,)} x", KD_ECORRUPT, "its end is expected"},
        {"{'descr': '|u1' 'fortran_order': False}", KD_ECORRUPT, "',' or '}'"},
        {"{'descr': '|u\\x31', 'fortran_order': False, 'shape': (2,)}", KD_ECORRUPT, "a dtype"},
        {"{'descr': '|u1", KD_ECORRUPT, "a dtype"},
        {"{", KD_ECORRUPT, "ends where a key"},
        {"", KD_ECORRUPT, "ends where '{'"},
        {"\x1b[2J", KD_ECORRUPT, "byte 0x1b"},
    };
    kd_array a;
    for (size_t i = 0; i < KD_COUNT(cases); i++)
        FAILS(npy(&a, cases[i].header, image, 2), cases[i].code, cases[i].text);
}

static void npy_cut_at_any_byte_is_refused(void **state)
{
    (void)state;
    uint8_t file[200];
    kd_array a;
    size_t n =
        fx_npy(file, "{'descr': '|u1', 'fortran_order': False, 'shape': (2,2,3)}\n", image, sizeof(image));
    for (size_t cut = 0; cut < n; cut++)
        FAILS(kd_array_read(&a, fx_write("cut.npy", file, cut), NULL, &fx_err), KD_ECORRUPT, "/cut.npy: ");
    file[6] = 4;
    FAILS(kd_array_read(&a, fx_write("v4.npy", file, n), NULL, &fx_err), KD_EUNSUPPORTED, "version 4.0");
    memcpy(file + 6, "\x02\x00\x01\x00\x01\x00", 6); // 65,537 bytes of header
    FAILS(kd_array_read(&a, fx_write("long.npy", file, n), NULL, &fx_err), KD_ELIMIT,
          "header of 65537 bytes, the limit is 65536");
}

/* ---- csv ---------------------------------------------------------------------------------- */

static kd_status csv(kd_array *a, const char *text, const char *column)
{
    return kd_array_read(a, fx_write("a.csv", text, strlen(text)), column, &fx_err);
}

/* The array is rows x n of that type with these values. */
static void holds(kd_array *a, kd_dtype dtype, uint64_t rows, int ndims, const float *want)
{
    size_t n = kd_array_row_bytes(a) / kd_dtype_size(a->dtype) * (size_t)a->rows;
    float *x = malloc(n * sizeof(*x));
    assert_int_equal(a->dtype, dtype);
    assert_int_equal(a->rows, rows);
    assert_int_equal(a->ndims, ndims);
    kd_to_f32(x, a->data, a->dtype, n);
    for (size_t i = 0; i < n; i++)
        if (!(x[i] == want[i])) fail_msg("value %zu is %g, expected %g", i, (double)x[i], (double)want[i]);
    free(x);
    kd_array_release(a);
}
#define V(...) ((const float[]){__VA_ARGS__})

static void csv_columns_are_taken_by_name_range_number_or_all(void **state)
{
    (void)state;
    const char *text = "name,a,b,\"c, d\",y\nx,1,2,3,0\n\"p \"\"q\"\"\nr\",4,5,6,1\n";
    kd_array a;
    OK(csv(&a, text, "b"));
    holds(&a, KD_U8, 2, 0, V(2, 5));
    OK(csv(&a, text, "a:c, d"));
    holds(&a, KD_U8, 2, 1, V(1, 2, 3, 4, 5, 6));
    OK(csv(&a, text, "5"));
    holds(&a, KD_U8, 2, 0, V(0, 1));
    OK(csv(&a, text, NULL));
    holds(&a, KD_U8, 2, 1, V(1, 2, 3, 0, 4, 5, 6, 1));
    OK(csv(&a, "7,8\n9,10", "2"));
    holds(&a, KD_U8, 2, 0, V(8, 10));
    OK(csv(&a, "0,1,2\n7,8,9\n", NULL)); // pandas' names of unnamed columns
    holds(&a, KD_U8, 1, 1, V(7, 8, 9));
    OK(kd_array_read(&a, fx_write("a.tsv", "a\tb\n1\t2\n", 8), "b", &fx_err));
    holds(&a, KD_U8, 1, 0, V(2));
    OK(kd_array_read(&a, fx_write_gz("a.csv.gz", "a,b\n1,2\n", 8), "b", &fx_err));
    holds(&a, KD_U8, 1, 0, V(2));
}

static void csv_line_ends_marks_and_blanks_do_not_matter(void **state)
{
    (void)state;
    kd_array a;
    OK(csv(&a,
           "\xEF\xBB\xBF"
           "a,b\r\n1 , 2\r\n\r\n\"3\",\"4\"\r\n\n",
           NULL));
    holds(&a, KD_U8, 2, 1, V(1, 2, 3, 4));
}

static void csv_keeps_the_narrowest_type(void **state)
{
    (void)state;
    kd_array a;
    OK(csv(&a, "a\n0\n255\n", NULL));
    holds(&a, KD_U8, 2, 1, V(0, 255));
    OK(csv(&a, "a\n0\n256\n3\n", NULL));
    holds(&a, KD_I32, 3, 1, V(0, 256, 3));
    OK(csv(&a, "a\n7\n-1\n2147483648\n3\n", NULL));
    holds(&a, KD_I64, 4, 1, V(7, -1, 2147483648.0f, 3));
    OK(csv(&a, "a,b\n1,300\n2,-4.5e-1\n+3,1e3\n", NULL));
    holds(&a, KD_F32, 3, 1, V(1, 300, 2, -0.45f, 3, 1000));
    kd_buf text = {0};
    float *want = calloc(6000, sizeof(*want));
    for (int i = 0; i < 6000; i++) { // widened late, in a buffer that has grown
        want[i] = i == 5990 ? 0.5f : (float)(i % 200);
        kd_buf_printf(&text, "%g\n", (double)want[i]);
    }
    OK(csv(&a, text.text, "1"));
    holds(&a, KD_F32, 6000, 0, want);
    free(want);
    kd_buf_release(&text);
}

static void csv_faults_are_named_by_line_and_column(void **state)
{
    (void)state;
    static const struct {
        const char *text, *column;
        kd_status code;
        const char *sentence;
    } cases[] = {
        {"a,b\n1,2\n3,x\n", NULL, KD_ECORRUPT, "a.csv:3:2: 'x' in column 'b', expected a number"},
        {"a,b\n1,2\n3,\n", NULL, KD_ECORRUPT, "a.csv:3:2: nothing in column 'b', expected a number"},
        {"a,b\n1,2\n\n\"\n\",4\n3,nan\n", "b", KD_ECORRUPT, "a.csv:6:2: 'nan'"},
        {"a\n1\ninf\n", NULL, KD_ECORRUPT, "'inf'"},
        {"a\n1\n0x10\n", NULL, KD_ECORRUPT, "'0x10'"},
        {"a\n1\n1e99\n", NULL, KD_ECORRUPT, "'1e99'"},
        {"a\n1\n1 2\n", NULL, KD_ECORRUPT, "'1 2'"},
        {"a\n1\n--1\n", NULL, KD_ECORRUPT, "'--1'"},
        {"a\n1\n\x1b[2J\n", NULL, KD_ECORRUPT, "'?[2J'"},
        {"a,b\n1,2\n3\n", NULL, KD_ECORRUPT, "a.csv:3: 1 fields, expected 2"},
        {"a,b\n1,2\n3,4,5\n", NULL, KD_ECORRUPT, "a.csv:3: 3 fields, expected 2"},
        {"a,b\n1\n", NULL, KD_ECORRUPT, "a.csv:2: 1 fields, its header has 2"},
        {"a,b\n1,\"2\n", NULL, KD_ECORRUPT, "a.csv:2: the quote of field 2 is never closed"},
        {"a,b\n1,\"2\"3\n", NULL, KD_ECORRUPT, "a.csv:2:2: text behind the closing quote"},
        {"a,b\n", NULL, KD_ECORRUPT, "a header and no records"},
        {"\n\n", NULL, KD_ECORRUPT, "no records"},
        {"a,b\nx,y\n", NULL, KD_ECORRUPT, "no column holds a number"},
        {"width,b\n1,2\n", "widht", KD_EUSAGE, "no column 'widht' (did you mean 'width'?)"},
        {"a,b\n1,2\n", "zzzzz", KD_EUSAGE, "its 2 columns run from 'a' to 'b'"},
        {"a,b\n1,2\n", "3", KD_EUSAGE, "no column '3'"},
        {"a,b\n1,2\n", "0", KD_EUSAGE, "no column '0'"},
        {"a,b\n1,2\n", "b:a", KD_EUSAGE, "run backwards"},
    };
    kd_array a;
    for (size_t i = 0; i < KD_COUNT(cases); i++)
        FAILS(csv(&a, cases[i].text, cases[i].column), cases[i].code, cases[i].sentence);
    FAILS(kd_array_read(&a, fx_write("z.csv", "a\n1\n\0\n", 6), NULL, &fx_err), KD_ECORRUPT,
          "z.csv:3:1: a zero byte");
    FAILS(kd_array_read(&a, fx_write("z.csv", "a\n1\n\"\0\"\n", 8), NULL, &fx_err), KD_ECORRUPT,
          "a zero byte");
    size_t n;
    uint8_t *gz = fx_gzip("a\n1\n2\n", 6, &n);
    FAILS(kd_array_read(&a, fx_write("cut.csv.gz", gz, n - 3), NULL, &fx_err), KD_ECORRUPT, "cut off");
    free(gz);
}

static void csv_records_have_limits(void **state)
{
    (void)state;
    kd_buf text = {0};
    kd_array a;
    for (int i = 0; i < 65537; i++) kd_buf_puts(&text, "1,");
    FAILS(csv(&a, text.text, NULL), KD_ELIMIT, "more than 65536 fields");
    text.len = 0;
    kd_buf_puts(&text, "a\n\"");
    for (int i = 0; i < (17 << 10); i++) kd_buf_printf(&text, "%01023d\n", 0);
    FAILS(csv(&a, text.text, NULL), KD_ELIMIT, "a.csv:2: a record longer than 16777216 bytes");
    kd_buf_release(&text);
}

/* ---- all ---------------------------------------------------------------------------------- */

/* Each mutant is read or refused with a sentence that names the file; the sanitizers watch the rest. */
static void mutants_are_read_or_refused(void **state)
{
    (void)state;
    uint8_t seed[4][256], *gz;
    size_t len[4], n;
    const char *name[4] = {"m", "m.npy", "m.csv", "m.gz"}, *text = "a,b\n1,2\n\"3\",4.5\n-6,300\n";
    kd_rng rng;
    kd_rng_init(&rng, 1, KD_RNG_TEST, 0, 0);
    len[0] = small_idx(seed[0]);
    len[1] =
        fx_npy(seed[1], "{'descr': '|u1', 'fortran_order': False, 'shape': (2,2,3)}\n", image, sizeof(image));
    memcpy(seed[2], text, len[2] = strlen(text));
    gz = fx_gzip(seed[0], len[0], &n);
    memcpy(seed[3], gz, len[3] = n);
    free(gz);
    for (int round = 0; round < 4000; round++) {
        int k = round % 4;
        uint8_t file[256];
        memcpy(file, seed[k], len[k]);
        for (uint64_t flips = 1 + kd_rng_below(&rng, 3); flips; flips--) {
            uint8_t *b = &file[kd_rng_below(&rng, len[k])];
            *b = kd_rng_below(&rng, 2) ? (uint8_t)kd_rng_u32(&rng)
                                       : *b ^ (uint8_t)(1u << kd_rng_below(&rng, 8));
        }
        kd_array a;
        fx_err = (kd_err){0};
        kd_status st = kd_array_read(&a, fx_write(name[k], file, len[k]), NULL, &fx_err);
        assert_int_equal(st, fx_err.code);
        if (st) assert_non_null(strstr(fx_err.msg, name[k]));
        if (st)
            assert_null(a.data);
        else
            assert_true(a.rows > 0 && kd_array_row_bytes(&a) > 0);
        kd_array_release(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(idx_is_read_plain_and_gzipped_whatever_its_name),
        cmocka_unit_test(idx_values_come_in_host_order),
        cmocka_unit_test(idx_cut_at_any_byte_is_refused),
        cmocka_unit_test(gzip_cut_at_any_byte_is_refused),
        cmocka_unit_test(trailing_bytes_are_refused),
        cmocka_unit_test(gzip_members_are_joined),
        cmocka_unit_test(wrong_magic_and_types_are_refused_by_name),
        cmocka_unit_test(sizes_are_not_believed),
        cmocka_unit_test(a_pipe_is_read_like_a_file),
        cmocka_unit_test(npy_of_each_dtype_is_read),
        cmocka_unit_test(npy_header_may_be_written_differently),
        cmocka_unit_test(npy_outside_the_grammar_is_refused),
        cmocka_unit_test(npy_cut_at_any_byte_is_refused),
        cmocka_unit_test(csv_columns_are_taken_by_name_range_number_or_all),
        cmocka_unit_test(csv_line_ends_marks_and_blanks_do_not_matter),
        cmocka_unit_test(csv_keeps_the_narrowest_type),
        cmocka_unit_test(csv_faults_are_named_by_line_and_column),
        cmocka_unit_test(csv_records_have_limits),
        cmocka_unit_test(mutants_are_read_or_refused),
    };
    return cmocka_run_group_tests(tests, fx_setup, fx_teardown);
}
