/* A program that does nothing, without a C library: the least cost of starting a process. Built with -static
 * -nostdlib. As the "compiler" of a build, it shows the cost of make and sh alone. */
__attribute__((noreturn)) void _start(void)
{
    __asm__ volatile("mov $60, %eax\n\txor %edi, %edi\n\tsyscall");
    __builtin_unreachable();
}
