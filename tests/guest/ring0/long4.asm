; husk: paging of long mode: rights, reserved bits, NX, SMEP, SMAP, keys, accessed and dirty, PCID (SDM 3A chapter 4)
%include "frame64.inc"

%ifdef LA57
  %define VA 0x2000000000000    ; PML5 entry 2
  %define BEYOND 0x0200000000000000
%else
  %define VA 0x8000000000
  %define BEYOND 0x0000900000000000
%endif

; PTE low, high: sets the leaf of VA and drops what is cached of it
%macro PTE 2
  mov dword [test_pt], %1
  mov dword [test_pt + 4], %2
  invlpg [rbx]
%endmacro
%macro CR4_SET 1
  mov rax, cr4
  or rax, %1
  mov cr4, rax
%endmacro
%macro CR4_CLEAR 1
  mov rax, cr4
  and rax, ~(%1)
  mov cr4, rax
%endmacro
%macro PF 2
  FAULT %1, 14, %2
  mov rax, [got_cr2]
  %strcat %%name %1, ": CR2"
  CHECK %%name, rax, rbx
%endmacro

main:
%ifdef LA57
  mov dword [pml5 + 2 * 8], pml4 + 0x1000 * 9 + 7
  mov dword [tables + 0xa000], test_pdpt + 7
%else
  mov dword [pml4 + 8], test_pdpt + 7
%endif
  mov dword [test_pdpt], test_pd + 7
  mov dword [test_pd], test_pt + 7
  mov rbx, VA

  ; --- present, read/write, user/supervisor ---
  PTE scratch, 0
  TRY
  mov al, [rbx]
  ENDTRY
  PF "read not present", 0
  TRY
  mov [rbx], al
  ENDTRY
  PF "write not present", 2
  TRY
  mov rax, rbx
  call rax
  ENDTRY
  PF "fetch not present", 16
  TRY
  USER
  mov al, [rbx]
  ENDTRY
  PF "user read not present", 4
  PTE scratch + 3, 0
  TRY
  USER
  mov al, [rbx]
  ENDTRY
  PF "user read of supervisor page", 5
  TRY
  USER
  mov [rbx], al
  ENDTRY
  PF "user write of supervisor page", 7
  TRY
  USER
  jmp rbx
  ENDTRY
  PF "user fetch of supervisor page", 0x15
  PTE scratch + 5, 0
  TRY
  USER
  mov [rbx], al
  ENDTRY
  PF "user write of read-only page", 7
  TRY
  mov [rbx], al
  ENDTRY
  PF "supervisor write of read-only page, WP", 3
  mov rax, cr0
  btr rax, 16
  mov cr0, rax
  TRY
  mov [rbx], al
  ENDTRY
  NOFAULT "supervisor write of read-only page, no WP"
  mov rax, cr0
  bts rax, 16
  mov cr0, rax
  PTE scratch + 7, 0
  mov dword [test_pd], test_pt + 5
  mov rax, cr3
  mov cr3, rax
  TRY
  mov [rbx], al
  ENDTRY
  PF "write right is the AND over the levels", 3
  mov dword [test_pd], test_pt + 3
  mov rax, cr3
  mov cr3, rax
  TRY
  USER
  mov al, [rbx]
  ENDTRY
  PF "user right is the AND over the levels", 5
  mov dword [test_pd], test_pt + 7
  mov rax, cr3
  mov cr3, rax

  ; --- reserved bits ---
  PTE scratch + 7, 0x00080000
  TRY
  mov al, [rbx]
  ENDTRY
  PF "reserved physical address bit 51 read", 9
  TRY
  USER
  mov [rbx], al
  ENDTRY
  PF "reserved bit user write", 0xf
  PTE scratch + 7, 0x07f00000
  TRY
  mov al, [rbx]
  ENDTRY
  NOFAULT "bits 52-58 are ignored"
  mov dword [test_pd], scratch + 0x87   ; 2 MiB page whose base is not aligned: bits 20:13 reserved
  mov rax, cr3
  mov cr3, rax
  TRY
  mov al, [rbx]
  ENDTRY
  PF "2 MiB page with low address bits", 9
  mov dword [test_pd], test_pt + 7
%ifdef LA57
  mov dword [tables + 0xa000], test_pdpt + 0x87
%else
  mov dword [pml4 + 8], test_pdpt + 0x87
%endif
  mov rax, cr3
  mov cr3, rax
  TRY
  mov al, [rbx]
  ENDTRY
  PF "PS in a PML4E is reserved", 9
%ifdef LA57
  mov dword [tables + 0xa000], test_pdpt + 7
%else
  mov dword [pml4 + 8], test_pdpt + 7
%endif
  mov rax, cr3
  mov cr3, rax

  ; --- NX ---
  mov byte [scratch], 0xc3      ; ret
  PTE scratch + 3, 0x80000000
  TRY
  call rbx
  ENDTRY
  PF "fetch of NX page", 0x11
  PTE scratch + 3, 0
  TRY
  call rbx
  ENDTRY
  NOFAULT "fetch without NX"
  mov dword [test_pd + 4], 0x80000000
  mov rax, cr3
  mov cr3, rax
  TRY
  call rbx
  ENDTRY
  PF "NX of a directory entry", 0x11
  mov dword [test_pd + 4], 0
  WRMSR 0xc0000080, 0, 0x501    ; NXE off
  PTE scratch + 3, 0x80000000
  TRY
  mov al, [rbx]
  ENDTRY
  PF "bit 63 reserved with NXE off", 9
  WRMSR 0xc0000080, 0, 0xd01

  ; --- accessed and dirty ---
  PTE scratch + 3, 0
  and byte [test_pd], ~0x20
  mov rax, cr3
  mov cr3, rax
  mov al, [rbx]
  mov eax, [test_pt]
  and eax, 0x60
  CHECK "read sets A", rax, 0x20
  mov eax, [test_pd]
  and eax, 0x60
  CHECK "walk sets A of the directory, not D", rax, 0x20
  mov [rbx + 8], al
  mov eax, [test_pt]
  and eax, 0x60
  CHECK "write after a cached read sets D", rax, 0x60
  PTE scratch + 1, 0
  TRY
  mov [rbx], al
  ENDTRY
  mov eax, [test_pt]
  and eax, 0x40
  CHECK "faulting write leaves D clear", rax, 0

  ; --- page crossing: CR2 is the first byte of the second page ---
  PTE scratch + 3, 0
  mov dword [test_pt + 8], 0
  TRY
  mov rax, [rbx + 0xffc]
  ENDTRY
  FAULT "access across into a page not present", 14, 0
  lea rcx, [rbx + 0x1000]
  CHECK "CR2 of a crossing access", [got_cr2], rcx
  mov rax, 0x5555555555555555
  mov [scratch + 0xff8], rax
  TRY
  mov rax, -1
  mov [rbx + 0xffc], rax
  ENDTRY
  mov rax, [scratch + 0xff8]
  mov rcx, 0x5555555555555555
  CHECK "a crossing store that faults writes nothing", rax, rcx

  ; --- SMEP, SMAP ---
  mov eax, 7
  xor ecx, ecx
  cpuid
  mov [features], rbx
  mov [features_c], rcx
  mov rbx, VA
  bt qword [features], 7
  jnc .no_smep
  PTE scratch + 7, 0
  TRY
  call rbx
  ENDTRY
  NOFAULT "supervisor fetch of user page, no SMEP"
  CR4_SET 1 << 20
  TRY
  call rbx
  ENDTRY
  PF "SMEP", 0x11
  CR4_CLEAR 1 << 20
.no_smep:
  bt qword [features], 20
  jnc .no_smap
  CR4_SET 1 << 21
  clac
  TRY
  mov al, [rbx]
  ENDTRY
  PF "SMAP read", 1
  TRY
  mov [rbx], al
  ENDTRY
  PF "SMAP write", 3
  TRY
  stac
  mov al, [rbx]
  clac
  ENDTRY
  NOFAULT "SMAP with AC"
  TRY
  USER 0x2
  mov al, [rbx]
  int 0x80
  ENDTRY
  FAULT "SMAP does not bind ring 3", 0x80, 0
  TRY
  USER 0x40002
  int 0x80
  ENDTRY
  mov rax, [got_flags]
  bt rax, 18
  sbb rax, rax
  CHECK "AC of ring 3 is in the frame", rax, -1
  ; An implicit supervisor access (the LDT on a user page) heeds SMAP whatever AC says.
  mov rax, [gdt + SEL_DATA]
  mov [scratch + 16], rax
  mov rax, rbx
  mov word [gdt + SEL_LDT], 0xff
  mov [gdt + SEL_LDT + 2], ax
  shr rax, 16
  mov [gdt + SEL_LDT + 4], al
  mov byte [gdt + SEL_LDT + 5], 0x82
  mov [gdt + SEL_LDT + 7], ah
  shr rax, 16
  mov [gdt + SEL_LDT + 8], eax
  mov eax, SEL_LDT
  lldt ax
  stac
  TRY
  mov eax, 0x14
  mov fs, ax
  ENDTRY
  clac
  FAULT "SMAP of an implicit access, AC set", 14, 1
  CR4_CLEAR 1 << 21
  mov byte [scratch], 0xc3
  TRY
  stac
  ENDTRY
  NOFAULT "stac without CR4.SMAP"
  TRY
  USER
  stac
  ENDTRY
  FAULT "stac in ring 3", 6, 0
.no_smap:

  ; --- protection keys ---
  bt qword [features_c], 3
  jnc .no_pku
  TRY
  xor ecx, ecx
  rdpkru
  ENDTRY
  FAULT "rdpkru without CR4.PKE", 6, 0
  CR4_SET 1 << 22
  PTE scratch + 7, 0x28000000   ; key 5
  xor ecx, ecx
  xor edx, edx
  mov eax, 1 << 10              ; AD of key 5
  wrpkru
  TRY
  mov al, [rbx]
  ENDTRY
  PF "key with AD, supervisor read of user page", 0x21
  TRY
  USER
  mov [rbx], al
  ENDTRY
  PF "key with AD, user write", 0x27
  TRY
  call rbx
  ENDTRY
  NOFAULT "keys do not bind fetches"
  xor ecx, ecx
  xor edx, edx
  mov eax, 2 << 10              ; WD
  wrpkru
  TRY
  mov al, [rbx]
  ENDTRY
  NOFAULT "key with WD, read"
  TRY
  USER
  mov [rbx], al
  ENDTRY
  PF "key with WD, user write", 0x27
  TRY
  mov [rbx], al
  ENDTRY
  PF "key with WD, supervisor write, WP", 0x23
  TRY
  mov ecx, 1
  xor edx, edx
  xor eax, eax
  wrpkru
  ENDTRY
  FAULT "wrpkru with ECX", 13, 0
  PTE scratch + 3, 0x28000000
  TRY
  mov [rbx], al
  ENDTRY
  NOFAULT "keys do not bind supervisor pages"
  CR4_CLEAR 1 << 22
.no_pku:

  ; --- the TLB: global, PCID, INVLPG, INVPCID ---
  ; What the manual leaves open (whether a stale translation is seen) is not tested; that one is gone after a flush is.
  PTE scratch + 3, 0
  mov qword [scratch + 0x10], 0x11
  mov qword [scratch + 0x1010], 0x22
  mov rax, [rbx + 0x10]
  mov dword [test_pt], scratch + 0x1000 + 3
  invlpg [rbx]
  mov rax, [rbx + 0x10]
  CHECK "invlpg drops a translation", rax, 0x22
  mov dword [test_pt], scratch + 3
  mov rax, cr3
  mov cr3, rax
  mov rax, [rbx + 0x10]
  CHECK "mov to CR3 drops a translation", rax, 0x11
  CR4_SET 1 << 7
  mov dword [test_pt], scratch + 0x103
  mov rax, cr3
  mov cr3, rax
  mov rax, [rbx + 0x10]
  mov dword [test_pt], scratch + 0x1103
  CR4_CLEAR 1 << 7
  mov rax, [rbx + 0x10]
  CHECK "clearing CR4.PGE drops global translations", rax, 0x22
  mov eax, 1
  cpuid
  mov [features_1c], rcx
  mov rbx, VA
  bt qword [features_1c], 17
  jnc .no_pcid
  TRY
  mov rax, cr3
  or rax, 5
  mov cr3, rax
  CR4_SET 1 << 17
  ENDTRY
  FAULT "CR4.PCIDE with CR3[11:0] not 0", 13, 0
  mov rax, cr3
  and rax, ~0xfff
  mov cr3, rax
  TRY
  CR4_SET 1 << 17
  ENDTRY
  NOFAULT "CR4.PCIDE with PCID 0"
  mov rax, cr3
  or rax, 5
  mov cr3, rax
  mov rcx, cr3
  and ecx, 0xfff
  CHECK "CR3 keeps the PCID", rcx, 5
  mov dword [test_pt], scratch + 3
  mov rax, cr3
  mov cr3, rax
  mov rax, [rbx + 0x10]
  CHECK "mov to CR3 without bit 63 drops its PCID", rax, 0x11
  mov rax, cr3
  bts rax, 63
  TRY
  mov cr3, rax
  ENDTRY
  NOFAULT "mov to CR3 with bit 63"
  mov rcx, cr3
  bt rcx, 63
  sbb rcx, rcx
  CHECK "bit 63 of CR3 reads as 0", rcx, 0
  bt qword [features], 10
  jnc .no_invpcid
  mov rax, [rbx + 0x10]
  mov dword [test_pt], scratch + 0x1003
  mov qword [descriptor], 5
  mov [descriptor + 8], rbx
  xor eax, eax
  invpcid rax, [descriptor]
  mov rax, [rbx + 0x10]
  CHECK "invpcid 0 drops one address", rax, 0x22
  mov dword [test_pt], scratch + 3
  mov eax, 2
  invpcid rax, [descriptor]
  mov rax, [rbx + 0x10]
  CHECK "invpcid 2 drops all", rax, 0x11
  TRY
  mov eax, 4
  invpcid rax, [descriptor]
  ENDTRY
  FAULT "invpcid type 4", 13, 0
  TRY
  mov qword [descriptor], 0x1000
  mov eax, 1
  invpcid rax, [descriptor]
  ENDTRY
  FAULT "invpcid reserved descriptor bits", 13, 0
  TRY
  mov qword [descriptor], 5
  mov rax, 1 << 63
  mov [descriptor + 8], rax
  xor eax, eax
  invpcid rax, [descriptor]
  ENDTRY
  FAULT "invpcid of a non-canonical address", 13, 0
.no_invpcid:
  mov rax, cr3
  and rax, ~0xfff
  mov cr3, rax
  CR4_CLEAR 1 << 17
.no_pcid:

  ; --- canonical addresses ---
  mov rdx, BEYOND
  TRY
  mov al, [rdx]
  ENDTRY
  FAULT "non-canonical read", 13, 0
  TRY
  mov al, [rdx + rsp]
  ENDTRY
  FAULT "non-canonical with RSP as base", 12, 0
  TRY
  USER                          ; ring 0 could not take the exception on that stack
  mov rsp, rdx
  pop rax
  ENDTRY
  FAULT "non-canonical stack read", 12, 0
  TRY
  mov rbp, rdx
  mov al, [rbp]
  ENDTRY
  FAULT "non-canonical through RBP", 12, 0
  TRY
  jmp rdx
  ENDTRY
  FAULT "jump to a non-canonical address", 13, 0
  TRY
  push rdx
  ret
  ENDTRY
  FAULT "ret to a non-canonical address", 13, 0
%ifdef LA57
  mov rdx, 0x0000900000000000
  TRY
  mov al, [rdx]
  ENDTRY
  FAULT "bit 47 alone is canonical with LA57", 14, 0
  TRY
  mov rax, cr4
  btr rax, 12
  mov cr4, rax
  ENDTRY
  FAULT "clearing CR4.LA57 in long mode", 13, 0
%else
  TRY
  mov rax, cr4
  bts rax, 12
  mov cr4, rax
  ENDTRY
  FAULT "setting CR4.LA57 in long mode", 13, 0
%endif

  ; --- 1 GiB page, 2 MiB page ---
  mov qword [scratch + 0x10], 0x77
  mov eax, 0x80000001
  cpuid
  mov rbx, VA
  bt edx, 26
  jnc .no_1g
  mov dword [test_pdpt], 0x87
  mov rax, cr3
  mov cr3, rax
  mov rax, [rbx + scratch + 0x10]
  CHECK "1 GiB page", rax, 0x77
.no_1g:
  mov dword [test_pdpt], test_pd + 7
  mov dword [test_pd], 0x87
  mov rax, cr3
  mov cr3, rax
  mov rax, [rbx + scratch + 0x10]
  CHECK "2 MiB page", rax, 0x77
  mov [rbx + scratch + 0x18], al
  mov eax, [test_pd]
  and eax, 0x60
  CHECK "A and D of a 2 MiB page", rax, 0x60
  ; Last, since a machine that lets it happen does not come back.
  TRY
  mov rax, cr4
  btr rax, 5
  mov cr4, rax
  ENDTRY
  FAULT "clearing CR4.PAE in long mode", 13, 0
  ret
  align 8
features: dq 0
features_c: dq 0
features_1c: dq 0
descriptor: dq 0, 0
