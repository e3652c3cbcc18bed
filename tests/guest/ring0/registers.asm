; husk: MSRs, control registers, CPUID, availability of x87, SSE, AVX and XSAVE (SDM 3A 2.5, 13; vol. 2)
%include "frame64.inc"
%macro CR_SET 2                 ; register, bit
  mov rax, %1
  bts rax, %2
  mov %1, rax
%endmacro
%macro CR_CLEAR 2
  mov rax, %1
  btr rax, %2
  mov %1, rax
%endmacro
%macro EXPECT 4+                ; name, vector, error, code
  TRY
  %4
  ENDTRY
  FAULT %1, %2, %3
%endmacro
%macro CR_FAULT 4               ; name, register, set bit, clear bit (64: none)
  TRY
  mov rax, %2
  %if %3 < 64
  bts rax, %3
  %endif
  %if %4 < 64
  btr rax, %4
  %endif
  mov %2, rax
  ENDTRY
  FAULT %1, 13, 0
%endmacro
main:
  ; --- MSRs ---
  EXPECT "rdmsr of an MSR that is not there", 13, 0, RDMSR 0x3fffffff
  EXPECT "wrmsr of an MSR that is not there", 13, 0, WRMSR 0x3fffffff, 0, 0
  EXPECT "EFER reserved bit", 13, 0, WRMSR 0xc0000080, 0x80, 0xd01
  EXPECT "EFER.LME cleared while paging", 13, 0, WRMSR 0xc0000080, 0, 0xc01
  RDMSR 0xc0000080
  CHECK "EFER", rax, 0xd01
  WRMSR 0xc0000080, 0, 0x901
  RDMSR 0xc0000080
  CHECK "EFER.LMA is read-only", rax, 0xd01
  EXPECT "APIC base with a reserved bit", 13, 0, WRMSR 0x1b, 0, 0xfee00901
  RDMSR 0x1b
  mov edx, 0xfee00900
  and eax, 0xfffff900
  CHECK "APIC base of the first processor", rax, rdx
  EXPECT "PAT with a reserved type", 13, 0, WRMSR 0x277, 0, 2
  EXPECT "PAT type 3", 13, 0, WRMSR 0x277, 0x07070707, 0x07070703
  WRMSR 0x277, 0x00070406, 0x00070406
  RDMSR 0x277
  mov rdx, 0x0007040600070406
  CHECK "PAT reads back", rax, rdx
  WRMSR 0xc0000103, 0, 0x1234
  mov eax, 0x80000001
  cpuid
  bt edx, 27
  jnc .no_rdtscp
  rdtscp
  CHECK "rdtscp gives TSC_AUX", rcx, 0x1234
.no_rdtscp:
  EXPECT "TSC_AUX high half", 13, 0, WRMSR 0xc0000103, 1, 0
  rdtsc
  shl rdx, 32
  or rax, rdx
  mov r8, rax
  rdtsc
  shl rdx, 32
  or rax, rdx
  cmp rax, r8
  setae al
  movzx eax, al
  CHECK "TSC does not run back", rax, 1
  TRY
  USER
  rdtsc
  int 0x80
  ENDTRY
  FAULT "rdtsc in ring 3", 0x80, 0
  CR_SET cr4, 2
  TRY
  USER
  rdtsc
  int 0x80
  ENDTRY
  FAULT "rdtsc in ring 3 with TSD", 13, 0
  CR_CLEAR cr4, 2
  TRY
  USER
  mov ecx, 0xc0000080
  rdmsr
  ENDTRY
  FAULT "rdmsr in ring 3", 13, 0
  TRY
  USER
  mov ecx, 0
  rdpmc
  ENDTRY
  FAULT "rdpmc in ring 3 without PCE", 13, 0
  ; --- control registers ---
  TRY
  mov rax, cr0
  btr rax, 4
  mov cr0, rax
  mov rax, cr0
  and eax, 0x10
  ENDTRY
  CHECK "CR0.ET stays 1", rax, 0x10
  TRY
  mov eax, 16
  mov cr8, rax
  ENDTRY
  FAULT "CR8 reserved bit", 13, 0
  mov eax, 9
  mov cr8, rax
  mov ebx, 0xfee00080
  mov eax, [rbx]
  and eax, 0xff
  CHECK "CR8 is the TPR's class", rax, 0x90
  mov ebx, 0xfee00080
  mov dword [rbx], 0x35
  mov rax, cr8
  CHECK "TPR gives CR8", rax, 3
  mov dword [rbx], 0
  mov eax, 1
  lmsw ax
  TRY
  xor eax, eax
  lmsw ax
  ENDTRY
  mov rax, cr0
  and eax, 1
  CHECK "lmsw does not clear PE", rax, 1
  CR_SET cr0, 3
  clts
  mov rax, cr0
  and eax, 8
  CHECK "clts", rax, 0
  ; --- CPUID ---
  xor eax, eax
  cpuid
  mov r8d, eax
  mov eax, 0x80000000
  cpuid
  cmp eax, 0x80000008
  setae al
  movzx eax, al
  CHECK "extended leaves reach 80000008", rax, 1
  mov eax, 1
  cpuid
  mov r9d, ecx
  bt edx, 0
  sbb rax, rax
  CHECK "CPUID: FPU", rax, -1
  bt r9d, 27
  sbb rax, rax
  CHECK "CPUID: OSXSAVE clear", rax, 0
  ; --- x87 ---
  CR_SET cr0, 5                 ; NE
  CR_SET cr0, 2                 ; EM
  EXPECT "x87 with EM", 7, 0, fninit
  EXPECT "wait with EM and no MP", NONE, 0, fwait
  CR_CLEAR cr0, 2
  CR_SET cr0, 3                 ; TS
  EXPECT "x87 with TS", 7, 0, fninit
  CR_CLEAR cr0, 1
  EXPECT "wait with TS and no MP", NONE, 0, fwait
  CR_SET cr0, 1
  EXPECT "wait with TS and MP", 7, 0, fwait
  clts
  TRY
  fninit
  fldcw [cw_unmask]
  fldz
  fld1
  fdiv st0, st1
  fwait
  ENDTRY
  FAULT "#MF with NE", 16, 0
  fninit
  ; --- SSE ---
  EXPECT "SSE without OSFXSR", 6, 0, xorps xmm0, xmm0
  CR_SET cr4, 9
  EXPECT "SSE with OSFXSR", NONE, 0, xorps xmm0, xmm0
  CR_SET cr0, 2
  EXPECT "SSE with EM", 6, 0, xorps xmm0, xmm0
  EXPECT "MMX with EM", 6, 0, pxor mm0, mm0
  CR_CLEAR cr0, 2
  CR_SET cr0, 3
  EXPECT "SSE with TS", 7, 0, xorps xmm0, xmm0
  EXPECT "MMX with TS", 7, 0, pxor mm0, mm0
  EXPECT "prefetch with TS", NONE, 0, prefetcht0 [scratch]
  clts
  mov dword [scratch], 0x1d80   ; ZM clear
  ldmxcsr [scratch]
  TRY
  mov eax, 0x3f800000
  movd xmm0, eax
  xorps xmm1, xmm1
  divss xmm0, xmm1
  ENDTRY
  FAULT "SIMD exception without OSXMMEXCPT", 6, 0
  CR_SET cr4, 10
  TRY
  mov eax, 0x3f800000
  movd xmm0, eax
  divss xmm0, xmm1
  ENDTRY
  FAULT "SIMD exception", 19, 0
  mov dword [scratch], 0x11f80
  EXPECT "ldmxcsr with a reserved bit", 13, 0, ldmxcsr [scratch]
  EXPECT "movaps not aligned", 13, 0, movaps xmm0, [scratch + 8]
  EXPECT "fxsave not aligned", 13, 0, fxsave [scratch + 8]
  ; --- XSAVE, AVX ---
  bt r9d, 26
  jnc .no_xsave
  xor ecx, ecx
  EXPECT "xgetbv without OSXSAVE", 6, 0, xgetbv
  CR_SET cr4, 18
  mov eax, 1
  cpuid
  bt ecx, 27
  sbb rax, rax
  CHECK "CPUID: OSXSAVE set", rax, -1
  xor ecx, ecx
  xgetbv
  CHECK "XCR0 after reset", rax, 1
  bt r9d, 28
  jnc .no_avx
  EXPECT "AVX without its XCR0 bits", 6, 0, vxorps ymm0, ymm0, ymm0
%macro XSETBV 4                 ; name, vector, index, value
  TRY
  mov ecx, %3
  xor edx, edx
  mov eax, %4
  xsetbv
  ENDTRY
  FAULT %1, %2, 0
%endmacro
  XSETBV "XCR0 without x87", 13, 0, 2
  XSETBV "XCR0 AVX without SSE", 13, 0, 5
  XSETBV "XCR0 AVX-512 part", 13, 0, 0x27
  XSETBV "XCR1", 13, 1, 1
  XSETBV "XCR0 bit 8", 13, 0, 0x107
  XSETBV "XCR0 of AVX", NONE, 0, 7
  EXPECT "AVX", NONE, 0, vxorps ymm0, ymm0, ymm0
  CR_SET cr0, 3
  EXPECT "AVX with TS", 7, 0, vxorps ymm0, ymm0, ymm0
  clts
  CR_SET cr0, 2
  EXPECT "AVX does not heed EM", NONE, 0, vxorps ymm0, ymm0, ymm0
  CR_CLEAR cr0, 2
  EXPECT "vmovaps not aligned", 13, 0, vmovaps ymm0, [scratch + 16]
  EXPECT "xsave not aligned", 13, 0, xsave [scratch + 32]
  TRY
  USER
  xor ecx, ecx
  mov eax, 7
  xor edx, edx
  xsetbv
  ENDTRY
  FAULT "xsetbv in ring 3", 13, 0
.no_avx:
.no_xsave:
  ; --- self-modifying code ---
  mov byte [.patch + 1], 2
.patch:
  mov al, 1
  movzx eax, al
  CHECK "a store to the next instruction counts", rax, 2
  mov byte [scratch], 0xb8      ; mov eax, imm32; ret
  mov byte [scratch + 5], 0xc3
  mov ebx, scratch
  mov dword [scratch + 1], 11
  call rbx
  CHECK "generated code", rax, 11
  mov dword [scratch + 1], 22
  call rbx
  CHECK "rewritten code", rax, 22
  mov eax, scratch              ; through another linear address
  mov r8, UALIAS
  add r8, rax
  mov dword [r8 + 1], 33
  call rbx
  CHECK "rewritten through an alias", rax, 33
  ; Last, since a machine that lets one happen may not come back.
  CR_FAULT "CR0.PG without PE", cr0, 64, 0
  CR_FAULT "CR0.NW without CD", cr0, 29, 64
  CR_FAULT "CR0 high half", cr0, 32, 64
  CR_FAULT "CR4 reserved bit 15", cr4, 15, 64
  CR_FAULT "CR4 high half", cr4, 40, 64
  CR_FAULT "CR3 reserved address bit", cr3, 60, 64
  ret
cw_unmask: dw 0x037b
