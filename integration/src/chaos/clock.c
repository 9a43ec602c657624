/* Preloaded into a daemon by `cargo chaos`: its wall clock is ahead by the milliseconds (eight bytes, signed) in the file
 * that FLUFFY_CHAOS_CLOCK names. All other clocks are left alone, and so is the program. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead_ms;

__attribute__((constructor)) static void find_file(void) {
    const char *path = getenv("FLUFFY_CHAOS_CLOCK");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *ahead_ms, PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED)
        abort(); /* A clock that cannot be set would make the episode a lie. */
    ahead_ms = page;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && clock == CLOCK_REALTIME && ahead_ms != NULL) {
        int64_t nanoseconds = time->tv_nsec + *ahead_ms % 1000 * 1000000;
        time->tv_sec += *ahead_ms / 1000 + (nanoseconds >= 1000000000) - (nanoseconds < 0);
        time->tv_nsec = (nanoseconds + 1000000000) % 1000000000;
    }
    return result;
}
