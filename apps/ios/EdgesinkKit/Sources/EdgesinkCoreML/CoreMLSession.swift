#if canImport(CoreML)
    import EdgesinkCore
    import Foundation

    extension StreamSession {
        /// Open a Core ML bundle, test it on its golden tokens if it came with any, and start a stream.
        ///
        /// The first load compiles the package and may take long; call it off the main actor. Throws if fewer golden tokens
        /// than `SelfTest.leastShare` come out: a device that computes silently wrong is found here, not by a reader.
        public static func coreML(
            bundle: URL, units: ComputeChoice = .standard, sinks: Int? = nil
        ) async throws -> StreamSession {
            let manifest = try Manifest.read(bundle)
            guard manifest.target == .coreml else {
                throw EdgesinkError(
                    .badBundle, "\(bundle.path) is a bundle for \(manifest.target.rawValue)",
                    expected: "one for coreml",
                    remedy: "export with --target coreml")
            }
            try manifest.requireOnePackage()
            _ = try manifest.stream.ring(sinks: sinks)
            try manifest.checkFiles(bundle)
            let compiled = try await CompiledModel.url(bundle: bundle, manifest: manifest)
            let backend = try CoreMLBackend(compiled: compiled, manifest: manifest, choice: units)
            let session = try StreamSession(manifest: manifest, backend: backend, sinks: sinks)
            if let golden = try GoldenStream.ofBundle(bundle) { try await SelfTest.run(golden, on: session) }
            return session
        }

        /// Forget the compiled form of a bundle; the next load compiles it anew.
        public static func forgetCompiled(bundle: URL) throws { try CompiledModel.remove(Manifest.read(bundle)) }
    }
#endif
