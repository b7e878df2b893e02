/* A plugin of qemu-user: counts the instructions of the guest, and its system calls, into a file that can be read
 * meanwhile (two 64-bit numbers).  Instructions of the kernel are not the guest's and are not counted.
 * The interface is declared here, as in QEMU 7.2's qemu-plugin.h, because Debian's qemu-user has no such file. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct qemu_plugin_tb;
enum { INLINE_ADD_U64 = 0, INTERFACE_VERSION = 1 };
typedef void translated(uint64_t id, struct qemu_plugin_tb *block);
typedef void called(uint64_t id, unsigned cpu, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                    uint64_t, uint64_t, uint64_t);
extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, translated *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation, void *where, uint64_t by);
extern void qemu_plugin_register_vcpu_syscall_cb(uint64_t id, called *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);

int qemu_plugin_version = INTERFACE_VERSION;
static uint64_t *counted;

static void block(uint64_t id, struct qemu_plugin_tb *tb) {
    qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD_U64, &counted[0], qemu_plugin_tb_n_insns(tb));
}

static void call(uint64_t id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                 uint64_t f, uint64_t g, uint64_t h) {
    counted[1]++;
}

int qemu_plugin_install(uint64_t id, const void *info, int count, char **arguments) {
    const char *file = count == 1 ? strchr(arguments[0], '=') : NULL; /* to=NAME */
    int fd = file ? open(file + 1, O_RDWR | O_CREAT | O_TRUNC, 0644) : -1;
    if (fd < 0 || ftruncate(fd, 2 * sizeof *counted)) return -1;
    counted = mmap(NULL, 2 * sizeof *counted, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (counted == MAP_FAILED) return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, block);
    qemu_plugin_register_vcpu_syscall_cb(id, call);
    return 0;
}
