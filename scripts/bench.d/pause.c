/* A program that sleeps for a second, without a C library. Built with -static -nostdlib. As the "compiler" of a
 * build, it shows the cost of make and sh while others compile. */
__attribute__((noreturn)) void _start(void)
{
    static const long second[2] = {1, 0};
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(35L), "D"(second), "S"(0L) : "rcx", "r11", "memory");
    __asm__ volatile("syscall" : : "a"(60L), "D"(0L) : "rcx", "r11");
    __builtin_unreachable();
}
