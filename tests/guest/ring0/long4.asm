; husk: four-level paging (SDM 3A 4.5)
%include "paging64.inc"
