/* spec.c - the options of data.yaml. */
#include "data_private.h"

#define S kd_data_spec
const kd_option kd_data_options[] = {
    KD_OPT_STRINGS("Data", S, train_input, "data.train_input", "FILE", 0, NULL,
                   "files with the training rows: IDX, .npy, .csv, .tsv, gzipped or not"),
    KD_OPT_STRINGS("Data", S, train_label, "data.train_label", "FILE", 0, NULL,
                   "files with their labels, whole numbers from 0"),
    KD_OPT_STRINGS("Data", S, test_input, "data.test_input", "FILE", 0, NULL, "files with the test rows"),
    KD_OPT_STRINGS("Data", S, test_label, "data.test_label", "FILE", 0, NULL, "files with their labels"),
    KD_OPT_STRING("Data", S, input_column, "data.input_column", "NAME", 0, NULL,
                  "CSV column of the input, or a range first:last (default: all numeric ones but the label)"),
    KD_OPT_STRING("Data", S, label_column, "data.label_column", "NAME", 0, NULL, "CSV column of the label"),
    KD_OPT_STRING("Data", S, input_name, "data.input_name", "NAME", 0, "image",
                  "name of the input column in the store"),
    KD_OPT_INTS("Data", S, shape, "data.shape", "LIST", 0, NULL, 0, 0,
                "shape of an input row if it differs from the file's: 28,28,1"),
    KD_OPT_INT("Data", S, classes, "data.classes", "N", 0, "0", 0, 0,
               "number of classes; 0: as many as class_names, else largest label + 1"),
    KD_OPT_STRINGS("Data", S, class_names, "data.class_names", "NAME", 0, NULL,
                   "names of the classes, in order"),
    KD_OPT_REAL("Data", S, mean, "data.mean", "X", 0, "0", 0, 0,
                "models see (raw - mean) * scale; with scale 0 both are measured on the training rows"),
    KD_OPT_REAL("Data", S, scale, "data.scale", "X", 0, "0", 0, 0,
                "see mean; 0: measured, 1 / standard deviation"),
    KD_OPT_STRING("Texts", S, tokenizer, "data.tokenizer", "FOLDER", 0, NULL,
                  "rows are texts; the folder has tokenizer.json or vocab.txt (or name that file)"),
    KD_OPT_STRINGS(
        "Texts", S, text_columns, "data.text_columns", "[NAME=]COLUMN", 0, NULL,
        "columns of .csv, .tsv or .jsonl files that become token columns; NAME in the store, without it "
        "tokens for one column, COLUMN for several. Other files have a text a line"),
    KD_OPT_INT("Texts", S, max_tokens, "data.max_tokens", "N", 0, "0", 0, 1 << 20,
               "tokens of a text, special ones included; 0: as the tokenizer's file says"),
    KD_OPT_BOOL(
        "Texts", S, windows, "data.windows", 0, "off",
        "a text of more than max_tokens becomes several rows instead of being cut, for models of language"),
    KD_OPT_STRING("Texts", S, conversations, "data.conversations", "NAME", 0, NULL,
                  "member of .jsonl lines that is a list of messages, {role, content}: rows of tokens as the "
                  "chat template "
                  "writes them, with a mask of what an assistant says"),
    KD_OPT_BOOL(
        "Texts", S, prompts, "data.prompts", 0, "off",
        "of conversations what stands before the answer to a user's last message, for kd-dump --generate"),
    KD_OPT_STRING("Splits", S, split_column, "data.split_column", "NAME", 0, NULL,
                  "rows of texts that agree in this column land in one split"),
    KD_OPT_REAL("Splits", S, valid_fraction, "data.valid_fraction", "F", 0, "0.1", 0, 0.9,
                "share of the training rows for validation"),
    KD_OPT_REAL("Splits", S, test_fraction, "data.test_fraction", "F", 0, "0.1", 0, 0.9,
                "share of the training rows for testing; only without test files"),
    {"Splits", "data.seed", "split-seed", "N", 0, KD_OPTION_INT, offsetof(S, seed), "0", 0, 0, NULL,
     "seed of splits and packing order"},
    KD_OPT_INT(
        "Store", S, chunk_rows, "data.chunk_rows", "N", 0, "0", 0, KD_STORE_MAX_CHUNK_ROWS,
        "rows a chunk, which is what a kill can cost a teacher; 0: 1024, of windows and conversations, whose "
        "rows take longer, 64"),
    KD_OPT_INT("Store", S, level, "data.level", "N", 0, "3", 1, 19, "zstd level"),
};
const size_t kd_data_options_n = KD_COUNT(kd_data_options);
