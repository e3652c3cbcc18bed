# husk: the host child's way into one test instruction and back out of it
# Offsets are those of Request and Answer in layout.h; child.cpp asserts them.

.set kReqGpr, 832
.set kReqFrame, 960
.set kReqFsBase, 1000
.set kReqEs, 1016
.set kReqDs, 1018
.set kReqFs, 1020
.set kReqGs, 1022
.set kResGpr, 832
.set kResRip, 960
.set kResRflags, 968
.set kResFsBase, 976
.set kResGsBase, 984
.set kResEs, 1008
.set kResCs, 1010
.set kResSs, 1012
.set kResDs, 1014
.set kResFs, 1016
.set kResGs, 1018

.text
.globl _start
_start:
  lea child_stack_top(%rip), %rsp
  xor %ebp, %ebp
  call child_main
  ud2

# void run_test(const Request* rdi, Answer* rsi)
.globl run_test
run_test:
  push %rbx
  push %rbp
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, saved_rsp(%rip)
  mov %rsi, saved_result(%rip)
  mov $7, %eax
  xor %edx, %edx
  xrstor64 (%rdi)
  mov kReqEs(%rdi), %es
  mov kReqDs(%rdi), %ds
  mov kReqFs(%rdi), %fs
  mov kReqGs(%rdi), %gs
  mov kReqFsBase(%rdi), %rax
  wrfsbase %rax
  mov kReqFsBase+8(%rdi), %rax
  wrgsbase %rax
  lea kReqFrame(%rdi), %rsp
  mov kReqGpr-kReqFrame+8*0(%rsp), %rax
  mov kReqGpr-kReqFrame+8*1(%rsp), %rcx
  mov kReqGpr-kReqFrame+8*2(%rsp), %rdx
  mov kReqGpr-kReqFrame+8*3(%rsp), %rbx
  mov kReqGpr-kReqFrame+8*5(%rsp), %rbp
  mov kReqGpr-kReqFrame+8*6(%rsp), %rsi
  mov kReqGpr-kReqFrame+8*7(%rsp), %rdi
  mov kReqGpr-kReqFrame+8*8(%rsp), %r8
  mov kReqGpr-kReqFrame+8*9(%rsp), %r9
  mov kReqGpr-kReqFrame+8*10(%rsp), %r10
  mov kReqGpr-kReqFrame+8*11(%rsp), %r11
  mov kReqGpr-kReqFrame+8*12(%rsp), %r12
  mov kReqGpr-kReqFrame+8*13(%rsp), %r13
  mov kReqGpr-kReqFrame+8*14(%rsp), %r14
  mov kReqGpr-kReqFrame+8*15(%rsp), %r15
  # Serializes, so that code written through another mapping is seen (SDM vol. 3, 8.1.3).
  iretq

# The gate page jumps here, in 64-bit mode, with everything as the test left it. No register is free.
.globl leave_test
leave_test:
  mov %rax, spare_rax(%rip)
  mov saved_result(%rip), %rax
  mov %rcx, kResGpr+8*1(%rax)
  mov %rdx, kResGpr+8*2(%rax)
  mov %rbx, kResGpr+8*3(%rax)
  mov %rsp, kResGpr+8*4(%rax)
  mov %rbp, kResGpr+8*5(%rax)
  mov %rsi, kResGpr+8*6(%rax)
  mov %rdi, kResGpr+8*7(%rax)
  mov %r8, kResGpr+8*8(%rax)
  mov %r9, kResGpr+8*9(%rax)
  mov %r10, kResGpr+8*10(%rax)
  mov %r11, kResGpr+8*11(%rax)
  mov %r12, kResGpr+8*12(%rax)
  mov %r13, kResGpr+8*13(%rax)
  mov %r14, kResGpr+8*14(%rax)
  mov %r15, kResGpr+8*15(%rax)
  mov spare_rax(%rip), %rcx
  mov %rcx, kResGpr(%rax)
  mov %ss, kResSs(%rax)
  mov saved_rsp(%rip), %rsp
  # AC may be set: nothing misaligned up to here.
  pushfq
  pop %rcx
  mov %rcx, kResRflags(%rax)
  push $2
  popfq
  mov %rax, %rsi
  mov $7, %eax
  xor %edx, %edx
  xsave64 (%rsi)
  mov %cs, kResCs(%rsi)
  jmp store_segments

# Called by the signal handler for what the frame does not hold. rdi: result. Comes back to run_test's caller.
.globl leave_signal
leave_signal:
  mov %rdi, %rsi
  mov saved_rsp(%rip), %rsp
store_segments:
  mov %es, kResEs(%rsi)
  mov %ds, kResDs(%rsi)
  mov %fs, kResFs(%rsi)
  mov %gs, kResGs(%rsi)
  rdfsbase %rax
  mov %rax, kResFsBase(%rsi)
  rdgsbase %rax
  mov %rax, kResGsBase(%rsi)
  mov $0x2B, %eax
  mov %eax, %ss
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbp
  pop %rbx
  ret

.globl signal_entry
signal_entry:
  push $2
  popfq
  mov saved_result(%rip), %rdi
  mov %rdx, %rsi
  and $-16, %rsp
  call record_signal
  mov saved_result(%rip), %rdi
  jmp leave_signal

# rt_sigaction wants a restorer; the handler never returns.
.globl signal_restorer
signal_restorer:
  ud2

.bss
.balign 64
.globl saved_result
saved_result: .skip 8
saved_rsp: .skip 8
spare_rax: .skip 8
.balign 64
.skip 65536
child_stack_top:

.section .note.GNU-stack,"",@progbits
