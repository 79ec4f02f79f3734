// swift-tools-version: 6.0
import PackageDescription

// Core knows no inference library; CoreML and ORT implement its `ModelBackend` and know nothing of each other.
let package = Package(
    name: "EdgesinkKit",
    platforms: [.iOS(.v18), .macOS(.v15)],
    products: [
        .library(name: "EdgesinkCore", targets: ["EdgesinkCore"]),
        .library(name: "EdgesinkCoreML", targets: ["EdgesinkCoreML"]),
        .library(name: "EdgesinkORT", targets: ["EdgesinkORT"]),
        .executable(name: "edgesink-cli", targets: ["edgesink-cli"]),
    ],
    targets: [
        .target(name: "EdgesinkCore"),
        .target(name: "EdgesinkCoreML", dependencies: ["EdgesinkCore"]),
        .target(name: "COnnxRuntime"),
        .target(name: "EdgesinkORT", dependencies: ["EdgesinkCore", "COnnxRuntime"]),
        .executableTarget(name: "edgesink-cli", dependencies: ["EdgesinkCore", "EdgesinkCoreML", "EdgesinkORT"]),
        .testTarget(name: "EdgesinkCoreTests", dependencies: ["EdgesinkCore"]),
        .testTarget(name: "EdgesinkORTTests", dependencies: ["EdgesinkCore", "EdgesinkORT"]),
    ],
    swiftLanguageModes: [.v6]
)
