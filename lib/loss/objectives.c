/* objectives.c - the table of objectives.
 *
 * Everything that a name in the field can mean in two ways is a key, because public implementations differ
 * there under one name; the resolved formula is printed in the run log. What stands here is only the list:
 * an objective's row, kernel and twin are in its own file.
 */
#include "loss_private.h"

#include <string.h>

#define X(name) &kd__objective_##name,
static const kd__objective *const table[] = {KD__OBJECTIVES(X)};
#undef X

const kd_objective *kd_loss_list(size_t i) { return i < KD_COUNT(table) ? &table[i]->pub : NULL; }

const kd__objective *kd__objective_find(const char *name)
{
    for (size_t i = 0; i < KD_COUNT(table); i++)
        if (!strcmp(table[i]->pub.name, name)) return table[i];
    return NULL;
}

const kd_objective *kd_loss_find(const char *name)
{
    const kd__objective *o = kd__objective_find(name);
    return o ? &o->pub : NULL;
}

const char *kd_loss_needs_text(unsigned needs, char *buf, size_t len)
{
    static const struct {
        unsigned bit;
        const char *text;
    } words[] = {
        {KD_NEEDS_LABELS, "labels"},
        {KD_NEEDS_LOGITS, "teacher logits"},
        {KD_NEEDS_SPARSE, "sparse teacher targets"},
        {KD_NEEDS_FEATURES, "a student tap and a teacher feature"},
        {KD_NEEDS_SAMPLES, "row numbers"},
        {KD_NEEDS_TAP, "a student tap"},
    };
    size_t n = 0;
    if (len) buf[0] = '\0';
    for (size_t i = 0; i < KD_COUNT(words); i++)
        if (needs & words[i].bit && n < len)
            n += (size_t)snprintf(buf + n, len - n, "%s%s", n ? ", " : "", words[i].text);
    return buf;
}
