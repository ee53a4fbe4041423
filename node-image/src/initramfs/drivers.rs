//! Which of a kernel's modules go into the initramfs.

/// What each kind of root needs.
pub const ROOT: &[(&str, &str)] =
    &[("nfs", "nfsv3"), ("ram", "loop"), ("ram", "squashfs"), ("ram", "overlay")];

/// What a kernel has to have, as a module or built in.
pub const NEEDED: &[&str] = &["nfs", "nfsv3", "loop", "squashfs", "overlay"];

/// What every node is sent, for it is small: virtio, where the card's numbers name the bus and not the
/// driver; virtio_rng because a node makes keys as soon as it is switched on.
pub const COMMON: &[&str] = &["virtio_net", "virtio_pci", "virtio_mmio", "virtio_rng"];

/// What a driver asks for by itself when it has found its device; nothing in the initramfs would answer it, so
/// the second is loaded for the devices of the first: a PHY driver before it, the network part of a card's
/// driver with it.
pub const BESIDE: &[(&str, &str)] = &[("tg3", "broadcom"), ("mlx4_core", "mlx4_en")];

/// Drivers of the NICs that machines boot from, and of what leads to them. Loaded where their device is
/// there; a name that a kernel lacks is passed over.
pub const NICS: &[&str] = &[
    // Virtual machines.
    "vmxnet3",
    "hv_netvsc",
    "hv_vmbus",
    "pci_hyperv",
    "xen_netfront",
    "ena",
    "gve",
    "8139cp",
    "8139too",
    "pcnet32",
    "ne2k_pci",
    // Intel.
    "e100",
    "e1000",
    "e1000e",
    "igb",
    "igbvf",
    "igc",
    "ixgbe",
    "ixgbevf",
    "i40e",
    "iavf",
    "ice",
    // Realtek, with the PHY drivers that r8169 asks for.
    "r8169",
    "realtek",
    // Broadcom.
    "tg3",
    "broadcom",
    "b44",
    "bnx2",
    "bnx2x",
    "bnxt_en",
    "bcmgenet",
    // Mellanox, Chelsio, QLogic, Emulex, Solarflare, Huawei.
    "mlx4_core",
    "mlx4_en",
    "mlx5_core",
    "cxgb4",
    "qede",
    "be2net",
    "sfc",
    "hinic",
    "qlcnic",
    "enic",
    // Marvell, Aquantia, Atheros, NVIDIA, SiS, VIA, AMD, JMicron.
    "sky2",
    "skge",
    "atlantic",
    "atl1",
    "atl1c",
    "atl1e",
    "atl2",
    "alx",
    "forcedeth",
    "sis190",
    "sis900",
    "via_rhine",
    "via_velocity",
    "amd_xgbe",
    "jme",
    "natsemi",
    "tulip",
    "3c59x",
    // USB: the controllers, then the adapters.
    "xhci_pci",
    "ehci_pci",
    "uhci_hcd",
    "ohci_pci",
    "r8152",
    "r8153_ecm",
    "ax88179_178a",
    "asix",
    "cdc_ether",
    "cdc_ncm",
    "rtl8150",
    "smsc75xx",
    "smsc95xx",
    "lan78xx",
    "aqc111",
    "dm9601",
    "mcs7830",
    "rndis_host",
];
