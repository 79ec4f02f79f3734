// swift-tools-version: 6.0
import Foundation
import PackageDescription

// SQLite is part of every Apple system. On Linux its header may be missing (package libsqlite3-dev): then the package is
// built without EdgesinkMemory.
#if os(Linux)
    let hasSQLite = ["/usr/include/sqlite3.h", "/usr/local/include/sqlite3.h"].contains {
        FileManager.default.fileExists(atPath: $0)
    }
#else
    let hasSQLite = true
#endif
let memory: [Target.Dependency] = hasSQLite ? ["EdgesinkMemory"] : []
let memoryProducts: [Product] = hasSQLite ? [.library(name: "EdgesinkMemory", targets: ["EdgesinkMemory"])] : []
let memoryTargets: [Target] =
    hasSQLite
    ? [
        .systemLibrary(name: "CSQLite", providers: [.apt(["libsqlite3-dev"])]),
        .target(name: "EdgesinkMemory", dependencies: ["EdgesinkCore", "CSQLite"]),
        .testTarget(name: "EdgesinkMemoryTests", dependencies: ["EdgesinkCore", "EdgesinkMemory", "TestSupport"]),
    ] : []

// Core knows no inference library and no database; CoreML and ORT implement its `ModelBackend`, Memory its
// `ConversationMemory`, and none of them knows the others.
let package = Package(
    name: "EdgesinkKit",
    platforms: [.iOS(.v18), .macOS(.v15)],
    products: [
        .library(name: "EdgesinkCore", targets: ["EdgesinkCore"]),
        .library(name: "EdgesinkCoreML", targets: ["EdgesinkCoreML"]),
        .library(name: "EdgesinkORT", targets: ["EdgesinkORT"]),
        .executable(name: "edgesink-cli", targets: ["edgesink-cli"]),
    ] + memoryProducts,
    targets: [
        .target(name: "EdgesinkCore"),
        .target(name: "EdgesinkCoreML", dependencies: ["EdgesinkCore"]),
        .target(name: "COnnxRuntime"),
        .target(name: "EdgesinkORT", dependencies: ["EdgesinkCore", "COnnxRuntime"]),
        .executableTarget(
            name: "edgesink-cli", dependencies: ["EdgesinkCore", "EdgesinkCoreML", "EdgesinkORT"] + memory),
        .target(name: "TestSupport", dependencies: ["EdgesinkCore"], path: "Tests/TestSupport"),
        .testTarget(name: "EdgesinkCoreTests", dependencies: ["EdgesinkCore", "TestSupport"]),
        .testTarget(name: "EdgesinkORTTests", dependencies: ["EdgesinkCore", "EdgesinkORT"]),
    ] + memoryTargets,
    swiftLanguageModes: [.v6]
)
